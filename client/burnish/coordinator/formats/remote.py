"""Data in object storage: copied into the run's directory before anything is read, so that a run that goes on depends
on nothing but its directory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.coordinator.atomic import FULL, disk_full, sync_folder, writing_whole
from burnish.coordinator.errors import DataAway, DataError
from burnish.coordinator.paths import is_remote

_SCHEMES = ("s3", "gs", "az")
_CONNECT_SECONDS, _REQUEST_SECONDS = 10, 60
_CHUNK = 1 << 22
_DENIED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 403", "HTTP status 401")


def local_copies(items: Sequence[str], into: Path) -> tuple[str, ...]:
    """`items`, with those in object storage replaced by their copies in the folder `into`. One that is there already
    and is what the store has, by names, sizes and times, is kept; so is one when the store cannot be asked. Raises
    DataError, and DataAway where another time may be better."""
    return tuple(_local_copy(item, into) if is_remote(item) else item for item in items)


def _local_copy(uri: str, into: Path) -> str:
    scheme, _, place = uri.partition("://")
    place = place.rstrip("/")
    if scheme.lower() not in _SCHEMES:
        raise DataError(f"{uri}: expected a file or folder of this machine, or one in s3://, gs:// or az://.")
    if "/" not in place or any(sign in place for sign in "*?["):
        raise DataError(f"{uri}: expected {scheme}://BUCKET/PATH of a file, or of a folder of files; no pattern.")
    folder = into / hashlib.sha256(uri.encode()).hexdigest()[:16]
    note = folder.with_suffix(".json")
    try:
        store = _store(scheme.lower())
        found = _listed(store, place)
    except (OSError, ValueError) as error:
        if (there := _kept(note, folder)) is not None:
            return there
        # Who is not let in is not let in later either; Arrow has no class of its own for it.
        away = isinstance(error, OSError) and not any(word in str(error) for word in _DENIED)
        raise (DataAway if away else DataError)(
            f"{uri}: cannot be read: {error}. Credentials, region and endpoint are taken from the environment (for s3://:"
            " AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL)."
        ) from error
    if not found:
        raise DataError(f"{uri}: there is no such file or folder.")
    wanted = {"uri": uri, "files": {name: [info.size, info.mtime_ns] for name, info in found.items()}}
    if _noted(note) != wanted or _kept(note, folder) is None:
        _fetch(store, {name: info.path for name, info in found.items()}, folder, uri)
        with writing_whole(note) as stream:
            stream.write(json.dumps(wanted, indent=2).encode() + b"\n")
    there = _kept(note, folder)
    if there is None:  # what was copied is not what had been listed
        raise DataAway(f"{uri}: it changed while it was copied; run the same command again.")
    return there


def _kept(note: Path, folder: Path) -> str | None:
    """The copy: a file where one was named, else the folder; None where there is none that is whole."""
    noted = _noted(note)
    if not noted:
        return None
    names = list(noted["files"])
    if any(
        not (folder / name).is_file() or (folder / name).stat().st_size != noted["files"][name][0] for name in names
    ):
        return None  # the machine went down, or somebody tidied up
    return str(folder / names[0]) if len(names) == 1 and noted["uri"].endswith(f"/{names[0]}") else str(folder)


def _noted(note: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}


def _listed(store: Any, place: str) -> dict[str, Any]:
    """What is at a place of a store, by the name below it."""
    from pyarrow import fs

    info = store.get_file_info(place)
    if info.type == fs.FileType.File:
        return {info.base_name: info}
    below = store.get_file_info(fs.FileSelector(place, recursive=True, allow_not_found=True))
    return {one.path[len(place) + 1 :]: one for one in below if one.type == fs.FileType.File}


def _fetch(store: Any, names: dict[str, str], folder: Path, uri: str) -> None:
    """Puts the new copy in the place of the old one, once it is whole."""
    draft = folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    for name, place in names.items():
        target = draft / name
        if not target.resolve().is_relative_to(draft.resolve()):
            raise DataError(f"{uri}: holds an object named {name!r}, which is no name of a file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Without `compression`, pyarrow would unpack `.gz`.
            with store.open_input_stream(place, compression=None) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK)
                copy.flush()
                os.fsync(copy.fileno())  # the note that says that it is whole must not be on the disk before it
        except OSError as error:
            if error.errno in FULL:  # the copy's disk; Arrow's own errors have no number
                raise disk_full(target, error) from error
            raise DataAway(f"{uri}: {name} cannot be copied to {target.parent}: {error}") from error
    folder.with_suffix(".json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    sync_folder(folder.parent)


def _store(scheme: str) -> Any:
    from pyarrow import fs

    if scheme == "s3":
        return fs.S3FileSystem(
            endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            region=os.environ.get("AWS_REGION") or None,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        )
    if scheme == "gs":
        return fs.GcsFileSystem()
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        raise ValueError("AZURE_STORAGE_ACCOUNT_NAME is not set")
    return fs.AzureFileSystem(account, account_key=os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"))
