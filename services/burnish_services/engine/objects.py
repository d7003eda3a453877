"""What is read, written, listed and removed in object storage. Blocking.

Knows places; not what is done with the content.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish_services.engine.object_places import ObjectChanged, ObjectError, ObjectMissing, ObjectPlace
from burnish_services.engine.object_stores import client_module, store_of, told_as_ours

_PART = 8 * 2**20  # bytes asked for at a time
_AT_A_TIME = 16  # parts, of one or of several files
_READ_AHEAD = 4  # parts, where bytes are wanted in order
_UPLOAD_PART, _UPLOAD_PARTS = 16 * 2**20, 9_000  # of a file; S3 takes 10,000 parts


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """An object as it was listed: its size in bytes, and what changes with its content."""

    place: ObjectPlace
    size: int
    e_tag: str | None
    modified: str

    @property
    def name(self) -> str:
        """The last segment of its place."""
        return self.place.name


def list_objects(prefix: ObjectPlace) -> list[ObjectEntry]:
    """The objects directly below a prefix, by name; none where there is none. Raises ObjectError."""
    with told_as_ours(prefix):
        found = client_module().list_with_delimiter(store_of(prefix), prefix.key or None)["objects"]
    return sorted((_entry(prefix, meta) for meta in found), key=lambda entry: entry.name)


def find_object(place: ObjectPlace) -> ObjectEntry:
    """One object. Raises ObjectError."""
    with told_as_ours(place):
        return _entry(place, client_module().head(store_of(place), place.key))


def read_object(place: ObjectPlace) -> Iterator[bytes]:
    """An object's bytes as they are, in order, in pieces. Raises ObjectError."""
    entry = find_object(place)
    ahead: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(_READ_AHEAD, "objects") as pool:
        try:
            for start, end in _parts(entry.size):
                ahead.append(pool.submit(_read, entry, start, end))
                if len(ahead) == _READ_AHEAD:
                    yield bytes(ahead.popleft().result())
            while ahead:
                yield bytes(ahead.popleft().result())
        finally:
            pool.shutdown(cancel_futures=True)


def download(wanted: Sequence[tuple[ObjectEntry, Path]], stopped: threading.Event) -> None:
    """Fetches objects into files, which are made, several parts of several files at a time. Raises ObjectError, also
    soon after `stopped` is set, and OSError."""
    with ThreadPoolExecutor(_AT_A_TIME, "objects") as pool:
        files = []
        try:
            parts = []
            for entry, path in wanted:
                file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                files.append(file)
                parts += [pool.submit(_fetch_part, entry, file, stopped, *part) for part in _parts(entry.size)]
            done, _ = wait(parts, return_when=FIRST_EXCEPTION)
            pool.shutdown(cancel_futures=True)  # those at hand are waited for, since they write to the files
            for part in done:
                part.result()
            for file in files:
                os.fsync(file)
        finally:
            pool.shutdown(cancel_futures=True)
            for file in files:
                os.close(file)


def upload(path: Path, place: ObjectPlace) -> None:
    """Puts a file there, whole or not at all, in place of what is there. Raises ObjectError, also where the store says
    another size afterwards, and OSError."""
    size = path.stat().st_size
    part = max(_UPLOAD_PART, -(-size // _UPLOAD_PARTS))
    with told_as_ours(place):
        client_module().put(store_of(place), place.key, path, chunk_size=part, max_concurrency=8)
    found = find_object(place)
    if found.size != size:
        raise ObjectError(f"{place} has {found.size:,} bytes after {size:,} were put there")


def create_object(place: ObjectPlace, content: bytes) -> None:
    """Puts a small object there. Raises ObjectExists where there is one, whoever was first; ObjectError."""
    with told_as_ours(place):
        client_module().put(store_of(place), place.key, content, mode="create")


def put_object(place: ObjectPlace, content: bytes) -> None:
    """Puts a small object there, in place of what is there. Raises ObjectError."""
    with told_as_ours(place):
        client_module().put(store_of(place), place.key, content)


def is_anything_below(prefix: ObjectPlace, except_for: Collection[str] = ()) -> bool:
    """Whether there is any object below a prefix, at any depth, but for what begins with these segments. Raises
    ObjectError."""
    with told_as_ours(prefix):
        for chunk in client_module().list(store_of(prefix), f"{prefix.key}/"):
            for meta in chunk:
                if meta["path"].removeprefix(f"{prefix.key}/").partition("/")[0] not in except_for:
                    return True
    return False


def read_small(place: ObjectPlace, limit: int = 2**20) -> bytes:
    """A small object's bytes. Raises ObjectError, also where it is longer than `limit`."""
    entry = find_object(place)
    if entry.size > limit:
        raise ObjectError(f"{place} has {entry.size:,} bytes, expected at most {limit:,}")
    return bytes(_read(entry, 0, entry.size)) if entry.size else b""


def remove_object(place: ObjectPlace) -> None:
    """Removes an object; nothing happens where there is none. Raises ObjectError."""
    try:
        with told_as_ours(place):
            client_module().delete(store_of(place), place.key)
    except ObjectMissing:
        pass


def remove_below(prefix: ObjectPlace) -> None:
    """Removes all objects below a prefix. Raises ObjectError."""
    with told_as_ours(prefix):
        store = store_of(prefix)
        names = [meta["path"] for chunk in client_module().list(store, f"{prefix.key}/") for meta in chunk]
        if names:
            client_module().delete(store, names)


def _parts(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + _PART, size)) for start in range(0, size, _PART)]


def _read(entry: ObjectEntry, start: int, end: int) -> Any:
    options = {"range": (start, end)} | ({"if_match": entry.e_tag} if entry.e_tag else {})
    with told_as_ours(entry.place):
        content = client_module().get(store_of(entry.place), entry.place.key, options=options).bytes()
    if len(content) != end - start:
        raise ObjectChanged(f"{entry.place} is shorter than it was when it was listed")
    return content


def _fetch_part(entry: ObjectEntry, file: int, stopped: threading.Event, start: int, end: int) -> None:
    if stopped.is_set():
        raise ObjectError("the server is shutting down")
    left = memoryview(_read(entry, start, end))
    while left:
        written = os.pwrite(file, left, start)
        left, start = left[written:], start + written


def _entry(place: ObjectPlace, meta: Mapping[str, Any]) -> ObjectEntry:
    found = ObjectPlace(place.scheme, place.bucket, meta["path"])
    return ObjectEntry(found, meta["size"], meta["e_tag"], meta["last_modified"].isoformat())
