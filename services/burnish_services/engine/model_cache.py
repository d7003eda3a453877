"""Models from object storage, kept on this machine: each fetched once, and the one not used for longest removed first.

    STATE/models/
      KEY/model/       a model's files; never changed
      KEY/entry.json   where they are from; its time is that of the last use
      fetching-KEY/    one that is being fetched
      locks/KEY        locked while KEY is used (shared), or fetched or removed (exclusively)

KEY follows from the place and from what the store lists of its objects, so that changed content is another entry. The
locks are the kernel's and end with the process that holds them, however it ends: several processes may share a folder,
and what one that was killed left is nobody's. Blocking.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish_services.engine.model_digests import model_digest, note_moved
from burnish_services.engine.models import adapter_base_name
from burnish_services.engine.object_models import too_large
from burnish_services.engine.object_places import is_object_uri

log = logging.getLogger(__name__)

_ENTRY, _MODEL, _LOCKS = "entry.json", "model", "locks"
_FETCHING, _REMOVED = "fetching-", "removed-"
_POLL_SECONDS = 0.05


class Lease:
    """A model's directory that stays until it is released. `uri` is what it was asked for by."""

    def __init__(self, uri: str, path: Path, *locks: int) -> None:
        self.uri, self.path = uri, path
        self._locks = list(locks)

    def share(self) -> Lease:
        """Another one of the same directory, released on its own."""
        return Lease(self.uri, self.path, *(os.dup(lock) for lock in self._locks))

    def take_over(self, other: Lease) -> None:
        """Has what another one holds stay as long as this."""
        self._locks += other._locks
        other._locks = []

    def release(self) -> None:
        """Lets the directory be removed. Safe to call twice."""
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()  # one that was made for a call that is gone


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry: what it was fetched from, its model's digest, its bytes, and the key of what it needs beside it."""

    uri: str
    digest: str
    size: int
    base_key: str = ""


class ModelCache:
    """The entries of one folder, `max_bytes` in all."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder.absolute()
        self._max_bytes = max_bytes
        # Room is made for one after the other.
        self._making_room = threading.Lock()
        self._found: dict[tuple[str, str], str] = {}  # keys, by place and digest

    def remove_unfinished(self) -> None:
        """Removes what processes that are gone did not finish fetching or removing."""
        for path in self._folder.glob(f"{_FETCHING}*"):
            with self._alone(path.name.removeprefix(_FETCHING)) as alone:
                if alone:
                    shutil.rmtree(path, ignore_errors=True)
        for path in self._folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def find(self, uri: str, digest: str) -> Lease | None:
        """A model that was fetched from `uri` and has this digest."""
        key = self._found.get((uri, digest))
        if key is None:
            found = {(kept.uri, kept.digest): path.name for path in self._entries() if (kept := self._read(path))}
            self._found.update(found)
            key = found.get((uri, digest))
        if key is None:
            return None
        lease = self.lease(key, uri)
        if lease is None:
            self._found.pop((uri, digest), None)
        return lease

    def lease(self, key: str, uri: str) -> Lease | None:
        """The entry `key`, and what it needs; None where one of them is not there."""
        path = self._folder / key
        if self._read(path) is None:
            return None  # without waiting for who fetches it
        lock = self._open_lock(key)
        fcntl.flock(lock, fcntl.LOCK_SH)
        lease = Lease(uri, path / _MODEL, lock)
        kept = self._read(path)
        if kept is None:
            lease.release()
            return None
        if not kept.base_key:
            os.utime(path / _ENTRY)
            return lease
        base = self.lease(kept.base_key, uri)
        if base is None:
            lease.release()
            return None
        os.utime(path / _ENTRY)
        lease.take_over(base)
        return lease

    def holds(self, path: Path) -> bool:
        """Whether a path leads to something kept here."""
        return path.resolve().is_relative_to(self._folder.resolve())

    def keep(self, key: str, uri: str, size: int, fill: Callable[[Path], None], base_key: str = "") -> None:
        """Has `fill` write a model into a folder and keeps it as `key`, unless that is there, or another process does
        so first. `size`: its bytes. Raises what `fill` does, ModelLoadError, OSError."""
        with self._alone_or_there(key) as alone:
            if not alone:
                return
            staging = self._folder / f"{_FETCHING}{key}"
            shutil.rmtree(staging, ignore_errors=True)
            try:
                self._make_room(staging, uri, size)
                fill(staging / _MODEL)
                digest = _digest(staging / _MODEL)
                kept = {"uri": uri, "digest": digest, "size": size, "base_key": base_key}
                (staging / _ENTRY).write_text(json.dumps(kept), encoding="utf-8")
                shutil.rmtree(self._folder / key, ignore_errors=True)
                staging.rename(self._folder / key)
                note_moved(staging / _MODEL, self._folder / key / _MODEL)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            log.info("model kept", extra={"uri": uri, "digest": digest, "bytes": size})

    # --- room --------------------------------------------------------------------------------------------------

    def _make_room(self, staging: Path, uri: str, size: int) -> None:
        """Removes what is not used until `size` bytes more fit, and notes that they will come."""
        if size > self._max_bytes:
            raise too_large(uri, size, self._max_bytes)
        with self._making_room:
            there = {path: kept.size for path in self._entries() if (kept := self._read(path)) is not None}
            others = [path for path in self._folder.glob(f"{_FETCHING}*") if path != staging]
            coming = sum(map(self._coming, others))
            promised = sum(max(0, self._coming(path) - _size_of(path / _MODEL)) for path in others)  # of what is free
            oldest = sorted(there, key=lambda path: _last_use(path))
            while oldest and (sum(there.values()) + coming + size > self._max_bytes or self._free() - promised < size):
                path = oldest.pop(0)
                if self._remove(path.name):
                    del there[path]
            if sum(there.values()) + coming + size > self._max_bytes:
                raise too_large(f"{uri}, with those that are in use or being fetched,", size, self._max_bytes)
            if self._free() - promised < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))
            (staging / _MODEL).mkdir(parents=True)
            (staging / _ENTRY).write_text(json.dumps({"size": size}), encoding="utf-8")

    def _free(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._folder).free

    def _coming(self, path: Path) -> int:
        try:
            return int(json.loads((path / _ENTRY).read_text(encoding="utf-8"))["size"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0

    def _remove(self, key: str) -> bool:
        """Removes an entry that nobody uses."""
        removed = self._folder / f"{_REMOVED}{uuid.uuid4().hex}"
        with self._alone(key) as alone:
            if not alone:
                return False
            try:
                (self._folder / key).rename(removed)
            except FileNotFoundError:
                return True
        shutil.rmtree(removed, ignore_errors=True)
        log.info("model removed from the cache to make room", extra={"key": key})
        return True

    # --- entries and locks -------------------------------------------------------------------------------------

    def _entries(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return [path for path in self._folder.iterdir() if "-" not in path.name and path.name != _LOCKS]

    def _read(self, path: Path) -> Kept | None:
        try:
            found: dict[str, Any] = json.loads((path / _ENTRY).read_text(encoding="utf-8"))
            return Kept(**found)
        except (OSError, ValueError, TypeError):
            return None

    def _open_lock(self, key: str) -> int:
        folder = self._folder / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @contextmanager
    def _alone(self, key: str) -> Iterator[bool]:
        """Holds an entry exclusively; False where somebody has it."""
        lock = self._open_lock(key)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        else:
            alone = True
        try:
            yield alone
        finally:
            os.close(lock)

    @contextmanager
    def _alone_or_there(self, key: str) -> Iterator[bool]:
        """Holds an entry that is not there exclusively, once nobody else fetches it; False once it is there."""
        while True:
            with self._alone(key) as alone:
                if self._read(self._folder / key) is not None:
                    yield False
                    return
                if alone:
                    yield True
                    return
            time.sleep(_POLL_SECONDS)


def _digest(path: Path) -> str:
    """The model's digest; empty for an adapter that is one only together with a base from elsewhere."""
    base = adapter_base_name(path)
    return "" if base is not None and is_object_uri(base) else model_digest(path)


def _last_use(path: Path) -> float:
    try:
        return (path / _ENTRY).stat().st_mtime
    except OSError:
        return 0.0


def _size_of(folder: Path) -> int:
    """Bytes of the files in a folder that somebody may be writing to."""
    found = 0
    with suppress(FileNotFoundError):  # it is whole now, and elsewhere
        for path in folder.rglob("*"):
            found += path.stat().st_size
    return found
