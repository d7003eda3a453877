"""Reads files that lie elsewhere: in object storage, by pyarrow, or where else a file system of fsspec's reaches.

Knows URIs and the server's environment; not what is done with the content. Which schemes may be asked for is the
server's setting (`sources.py`). pyarrow and fsspec are imported when a file is asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

_CHUNK = 2**20
_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 10.0, 60.0, 3
# What S3, GCS and Azure allow. A name with anything else could become another host in the address that is made of it.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class RemoteError(Exception):
    """The file cannot be read now; the message says why, without credentials."""


class RemoteMissing(RemoteError):
    """There is no such file."""


class RemoteMalformed(RemoteError):
    """The URI names no file."""


def redacted(uri: str) -> str:
    """The URI without what may be a credential: user and password, and a query where that is no part of a name."""
    scheme, _, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme not in _STORES:
        path = path.partition("?")[0]
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def read_remote(uri: str) -> Iterator[bytes]:
    """The file's bytes as they are, in pieces. Blocking. Raises RemoteError."""
    try:
        with _open(uri) as stream:
            while chunk := stream.read(_CHUNK):
                yield bytes(chunk)
    except (RemoteError, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise RemoteMissing("there is nothing at that place") from error
    except Exception as error:
        # Whatever the file system's own package raises.
        raise RemoteError(_without_credentials(f"{type(error).__name__}: {error}", uri)) from error


def why_not_readable(scheme: str) -> str | None:
    """What is missing on this machine to read URIs of a scheme; None where nothing is."""
    if scheme in _STORES:
        return None
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        return str(error)
    return None


def _open(uri: str) -> AbstractContextManager[Any]:
    scheme, _, place = uri.partition("://")
    if scheme not in _STORES:
        import fsspec

        return fsspec.open(uri, "rb")
    bucket, _, key = place.partition("/")
    if not _BUCKET.fullmatch(bucket) or not key or key.endswith("/"):
        raise RemoteMalformed(f"expected {scheme}://BUCKET/PATH of one file")
    # Without `compression`, pyarrow would unpack `.gz`, and the digest would be another file's.
    return _STORES[scheme]().open_input_stream(place, compression=None)


# The place of a store is told by the server's environment alone. pyarrow's own reading of URIs is not used, since it
# lets a URI name the host (`?endpoint_override=`).


def _s3() -> Any:
    from pyarrow import fs

    return fs.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or os.environ.get("AWS_ENDPOINT"),
        region=os.environ.get("AWS_REGION") or None,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _gs() -> Any:
    from datetime import timedelta

    from pyarrow import fs

    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_REQUEST_SECONDS))


def _azure() -> Any:
    from pyarrow import fs

    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise RemoteError("AZURE_STORAGE_ACCOUNT_NAME is not set in the server's environment")
    return fs.AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"))


_STORES: dict[str, Callable[[], Any]] = {"s3": _s3, "gs": _gs, "az": _azure}


def _without_credentials(text: str, uri: str) -> str:
    query = uri.partition("?")[2]
    if query and not uri.startswith(tuple(f"{scheme}://" for scheme in _STORES)):
        text = text.replace(query, "…")
    return text.replace(uri, redacted(uri))
