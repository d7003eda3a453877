"""What is uploaded, as a stream that can be read twice: once for its digest, and again for each attempt to send it.

Also says which files of a training run's specification are on this machine, and what it is with uploads instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import tempfile
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from burnish._errors import UsageError
from burnish._types import RunSpec
from burnish.api.training.v1 import training_pb2 as pb

# A path, the bytes themselves, or pieces of them.
Content = str | Path | bytes | Iterable[bytes]

UPLOAD = "upload:"  # what the digest is preceded by in an upload's URI; see UploadDataResponse
# Reasons for which a run is not created that an upload may remedy: the service does not see the file, or sees another
# one by that path, or was given the upload the last time that this request was sent.
REMEDIED = frozenset({"DATA_NOT_FOUND", "PATH_NOT_ALLOWED", "DATA_DIGEST_MISMATCH", "REQUEST_ID_USED"})

_CHUNK = 2**20


@contextmanager
def opened(content: Content) -> Iterator[IO[bytes]]:
    """The content as a stream that can be read from its start again. Blocking: pieces are written to a temporary
    file. Raises UsageError where it is none, OSError."""
    if isinstance(content, bytes):
        yield io.BytesIO(content)
    elif isinstance(content, str | Path):
        path = Path(content)
        if not path.is_file():
            raise UsageError(f"there is no file {str(path)!r} to upload; expected a path, bytes, or pieces of bytes")
        with path.open("rb") as stream:
            yield stream
    else:
        with tempfile.TemporaryFile() as stream:
            for piece in content:
                if not isinstance(piece, bytes):
                    raise UsageError(f"a piece of the upload is a {type(piece).__name__}, expected bytes")
                stream.write(piece)
            yield stream


def digest_of(stream: IO[bytes]) -> str:
    """`sha256:` and 64 hexadecimal digits over the whole stream. Blocking, about 1 s per gigabyte."""
    stream.seek(0)
    whole = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        whole.update(chunk)
    return f"sha256:{whole.hexdigest()}"


async def messages(stream: IO[bytes], digest: str, largest: int) -> AsyncGenerator[pb.UploadDataRequest, None]:
    """The requests that upload the whole stream; none is larger than `largest` bytes."""
    size = max(1, min(_CHUNK, largest - 1024))
    await asyncio.to_thread(stream.seek, 0)
    while chunk := await asyncio.to_thread(stream.read, size):
        yield pb.UploadDataRequest(digest=digest, chunk=chunk)
        digest = ""
    yield pb.UploadDataRequest(digest=digest, last=True)


def local_files(spec: RunSpec) -> dict[str, Path]:
    """The data files of a specification that are on this machine, by the URIs that name them."""
    validation = "" if spec.bilevel is None else spec.bilevel.validation_data_uri
    found = {uri: local_file(uri) for uri in (spec.data_uri, spec.eval_data_uri, validation)}
    return {uri: path for uri, path in found.items() if path is not None}


def renamed(spec: RunSpec, uris: Mapping[str, str]) -> RunSpec:
    """The specification with other URIs for its data."""
    bilevel = spec.bilevel
    if bilevel is not None:
        uri = bilevel.validation_data_uri
        bilevel = replace(bilevel, validation_data_uri=uris.get(uri, uri))
    return replace(
        spec,
        data_uri=uris.get(spec.data_uri, spec.data_uri),
        eval_data_uri=uris.get(spec.eval_data_uri, spec.eval_data_uri),
        bilevel=bilevel,
    )


def local_file(uri: str) -> Path | None:
    """The file of this machine that a URI names; None where it names none."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(unquote(parts.path))
    elif not uri or "://" in uri or uri.startswith(UPLOAD):
        return None
    else:
        path = Path(uri).expanduser()
    return path if path.is_file() else None
