"""Where training data comes from: a file of this machine, an upload, or anywhere else by URI, fetched once. Blocking.

A file of this machine stays where it is. What is fetched becomes a copy in the `DataStore` before there is a run, so
that a run that is taken up again depends on nothing but this server's disk.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from burnish_services.engine.object_places import is_object_uri
from burnish_services.engine.places import OutsideRoots, Roots
from burnish_services.training.core import SpecError, is_digest
from burnish_services.training.data import check_digest, resolve_file
from burnish_services.training.data_store import DataStore, StoredFile
from burnish_services.training.remote import (
    RemoteDenied,
    RemoteError,
    RemoteMalformed,
    RemoteMissing,
    object_file,
    read_remote,
    redacted,
)
from burnish_services.training.state import RunError

UPLOAD = "upload:"  # what a digest is preceded by in the URI of an upload
LOCAL = "file"

_UPLOAD_INSTEAD = "upload the data (UploadData, client.training.upload) and give the URI that this returns"
_HOW_TO_READ = (
    "check the credentials, region and endpoint in the server's environment (for s3://: AWS_ACCESS_KEY_ID, "
    f"AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL), or {_UPLOAD_INSTEAD}"
)


class Abandoned(Exception):
    """Whoever asked for the data is gone."""


@dataclass(frozen=True, slots=True)
class Located:
    """A data file on this machine, and the digest of its bytes."""

    path: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Sources:
    """What this server reads: URIs of `schemes` (`file` stands for paths, too), in `roots` where they are paths or of
    object storage, and uploads, which are in `store`."""

    schemes: Sequence[str]
    store: DataStore
    roots: Roots

    def locate(self, uri: str, expected: str, field: str, abandoned: threading.Event) -> Located:
        """The file that `uri`, the value of `field`, names, fetched where it is not on this machine. `expected` is
        its digest, or empty. Raises RunError, SpecError; Abandoned soon after `abandoned` is set."""
        if uri.startswith(UPLOAD):
            return self._uploaded(uri, expected, field)
        scheme = uri.partition("://")[0].lower() if "://" in uri else LOCAL
        if scheme not in self.schemes:
            raise RunError("NOT_FOUND", "DATA_NOT_FOUND", self._not_allowed(uri, scheme, field))
        if scheme == LOCAL:
            return _local(uri, expected, field, self.roots)
        _refuse_password(uri, field)
        self._check_roots(uri, field)
        if expected and (path := self.store.find(expected)) is not None:
            return Located(path, expected)
        fetched = self._fetch(uri, expected, field, abandoned)
        return Located(fetched.path, fetched.digest)

    def _check_roots(self, uri: str, field: str) -> None:
        if not is_object_uri(uri):
            return
        try:
            self.roots.check_readable_object(object_file(uri))
        except RemoteMalformed as error:
            raise SpecError(field, f"is {redacted(uri)!r}: {error}") from error
        except OutsideRoots as error:
            raise RunError("PERMISSION_DENIED", "PATH_NOT_ALLOWED", f"{field} {error}, or upload the data") from None

    def _uploaded(self, uri: str, expected: str, field: str) -> Located:
        digest = uri.removeprefix(UPLOAD)
        if not is_digest(digest):
            raise SpecError(field, f"is {uri!r}, expected {UPLOAD}sha256: and 64 hexadecimal digits")
        if expected not in ("", digest):
            raise RunError(
                "FAILED_PRECONDITION",
                "DATA_DIGEST_MISMATCH",
                f"{field} is {uri}, and its digest was said to be {expected}",
            )
        path = self.store.find(digest)
        if path is None:
            raise RunError(
                "NOT_FOUND",
                "DATA_NOT_FOUND",
                f"{field} {uri}: there is no such upload here, or it is gone, since no run has used it for a while; "
                f"{_UPLOAD_INSTEAD}",
            )
        return Located(path, digest)

    def _fetch(self, uri: str, expected: str, field: str, abandoned: threading.Event) -> StoredFile:
        place = redacted(uri)
        incoming = self.store.receive(f"{field} {place}")
        try:
            for chunk in read_remote(uri):
                if abandoned.is_set():
                    raise Abandoned
                incoming.write(chunk)
            return incoming.keep(expected)
        except RemoteMalformed as error:
            raise SpecError(field, f"is {place!r}: {error}") from error
        except RemoteMissing as error:
            raise RunError(
                "NOT_FOUND",
                "DATA_NOT_FOUND",
                f"{field} {place}: {error}; expected a JSONL file that the training service can read",
            ) from error
        except RemoteDenied as error:
            raise RunError(
                "FAILED_PRECONDITION",
                "DATA_UNREACHABLE",
                f"{field} {place} may not be read: {error}. Expected a file that this server may read; {_HOW_TO_READ}",
            ) from error
        except RemoteError as error:
            raise RunError(
                "UNAVAILABLE",
                "DATA_UNREACHABLE",
                f"{field} {place} cannot be read now: {error}. If it stays so, {_HOW_TO_READ}",
            ) from error
        finally:
            incoming.close()

    def _not_allowed(self, uri: str, scheme: str, field: str) -> str:
        readable = ", ".join(self.schemes) or "uploads only"
        if scheme == LOCAL:
            return (
                f"{field} {uri!r}: this server reads no files by their path (BURNISH_TRAINING_DATA_SCHEMES: "
                f"{readable}); {_UPLOAD_INSTEAD}"
            )
        return (
            f"{field} {redacted(uri)!r}: this server does not read {scheme}:// (BURNISH_TRAINING_DATA_SCHEMES: "
            f"{readable}); add the scheme there, or {_UPLOAD_INSTEAD}"
        )


def _local(uri: str, expected: str, field: str, roots: Roots) -> Located:
    try:
        path = resolve_file(uri, field, roots)
        return Located(path, check_digest(path, expected, field))
    except OSError as error:
        raise RunError(
            "NOT_FOUND",
            "DATA_NOT_FOUND",
            f"{field} {uri!r} cannot be read: {error}; expected a JSONL file that the training service can read, or "
            f"{_UPLOAD_INSTEAD}",
        ) from error


def _refuse_password(uri: str, field: str) -> None:
    user = uri.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if ":" in user:
        raise SpecError(
            field,
            f"is {redacted(uri)!r} with a password before the @, which everybody who may list runs would see; "
            "expected a URI without, and credentials in the server's environment",
        )
