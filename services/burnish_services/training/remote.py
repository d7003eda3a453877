"""Reads files that lie elsewhere: in object storage, or where else a file system of fsspec's reaches.

Knows URIs; not what is done with the content. Which schemes may be asked for is the server's setting (`sources.py`).
fsspec is imported when a file is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from burnish_services.engine.object_places import (
    SCHEMES,
    ObjectDenied,
    ObjectError,
    ObjectMalformed,
    ObjectMissing,
    ObjectPlace,
    is_object_uri,
)
from burnish_services.engine.objects import read_object

_CHUNK = 2**20


class RemoteError(Exception):
    """The file cannot be read now; the message says why, without credentials."""


class RemoteMissing(RemoteError):
    """There is no such file."""


class RemoteDenied(RemoteError):
    """It may not be read with the credentials that there are."""


class RemoteMalformed(RemoteError):
    """The URI names no file."""


def redacted(uri: str) -> str:
    """The URI without what may be a credential: user and password, and a query where that is no part of a name."""
    scheme, _, rest = uri.partition("://")
    authority, slash, path = rest.partition("/")
    if scheme not in SCHEMES:
        path = path.partition("?")[0]
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def object_file(uri: str) -> ObjectPlace:
    """The object that a URI names. Raises RemoteMalformed."""
    try:
        place = ObjectPlace.parse(uri)
    except ObjectMalformed as error:
        raise RemoteMalformed(str(error).replace("PREFIX", "PATH of one file")) from None
    if not place.key or uri.endswith("/"):
        raise RemoteMalformed(f"expected {place.scheme}://BUCKET/PATH of one file")
    return place


def read_remote(uri: str) -> Iterator[bytes]:
    """The file's bytes as they are, in pieces. Blocking. Raises RemoteError."""
    try:
        yield from read_object(object_file(uri)) if is_object_uri(uri) else _read_by_fsspec(uri)
    except (RemoteError, GeneratorExit):
        raise
    except ObjectMissing as error:
        raise RemoteMissing(str(error)) from error
    except ObjectDenied as error:
        raise RemoteDenied(str(error)) from error
    except ObjectError as error:
        raise RemoteError(str(error)) from error
    except FileNotFoundError as error:
        raise RemoteMissing("there is nothing at that place") from error
    except PermissionError as error:
        raise RemoteDenied(_without_credentials(f"{type(error).__name__}: {error}", uri)) from error
    except OSError as error:
        raise RemoteError(_without_credentials(f"{type(error).__name__}: {error}", uri)) from error
    except Exception as error:
        # Whatever the file system's own package raises where it is no outage, as for want of credentials.
        raise RemoteDenied(_without_credentials(f"{type(error).__name__}: {error}", uri)) from error


def why_not_readable(scheme: str) -> str | None:
    """What is missing on this machine to read URIs of a scheme; None where nothing is."""
    if scheme in SCHEMES:
        return None
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        return str(error)
    return None


def _read_by_fsspec(uri: str) -> Iterator[bytes]:
    import fsspec

    with fsspec.open(uri, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield bytes(chunk)


def _without_credentials(text: str, uri: str) -> str:
    query = uri.partition("?")[2]
    return (text.replace(query, "…") if query else text).replace(uri, redacted(uri))
