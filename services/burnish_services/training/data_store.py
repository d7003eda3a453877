"""Copies of training data in the service's own state: what was uploaded, and what was fetched from elsewhere.

    STATE/training/data/
      <64 hex>.jsonl   a file under the SHA-256 of its bytes; never changes
      .incoming-…      one that is being written

Owns writing them whole or not at all, how many bytes they may take together, finding them, and removing what nobody
needs any more. What is in them is the
business of `data.py`, and where they come from of `sources.py` and `uploads.py`. Safe to use from several threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from burnish_services.runtime.disks import is_disk_full
from burnish_services.runtime.files import sync_path
from burnish_services.training.core import is_digest
from burnish_services.training.state import RunError

log = logging.getLogger(__name__)

_INCOMING = ".incoming-"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A copy: where it is, its digest (`sha256:` and 64 hex), its bytes, and its lines that are not blank."""

    path: Path
    digest: str
    size: int
    lines: int


class DataStore:
    """All copies below one directory. Methods are blocking but for `receive`."""

    def __init__(
        self,
        root: Path,
        max_bytes: int,
        keep_seconds: float,
        in_use: Callable[[], Collection[str]],
        max_stored_bytes: int = 0,
    ) -> None:
        """`max_bytes` is the largest copy taken, `max_stored_bytes` what all may take together (0: no limit). One that
        no run needs, going by the file names that `in_use` gives in any thread, is kept for `keep_seconds` after last
        use."""
        self._root = root.absolute()
        self._max_bytes = max_bytes
        self._keep_seconds = keep_seconds
        self._in_use = in_use
        self._max_stored_bytes = max_stored_bytes
        # Between the look at a copy's age and its removal nobody may come to rely on it.
        self._lock = threading.Lock()
        # Bytes of copies that are being written, and of whole ones when they were last counted (None: not yet). There
        # may be fewer of the latter since, but not more.
        self._arriving = 0
        self._kept: int | None = None

    def remove_unfinished(self) -> None:
        """Removes what an earlier server did not finish writing. Before any `receive`."""
        for path in self._root.glob(_INCOMING + "*"):
            path.unlink(missing_ok=True)

    def find(self, digest: str) -> Path | None:
        """The copy with this digest, if there is one; it stays for a while from now on."""
        path = self._path(digest)
        with self._lock:
            try:
                os.utime(path)
            except FileNotFoundError:
                return None
        return path

    def used(self, files: Iterable[Path]) -> None:
        """Counts those of `files` that are copies as used just now; others, and what is gone, stay as they are."""
        for path in files:
            if path.parent == self._root:
                with contextlib.suppress(OSError):  # it is removed sooner
                    os.utime(path)

    def receive(self, what: str) -> Incoming:
        """A new copy to be written; `what` names it in messages. Must be closed. Not blocking: nothing is on disk
        yet, so that a call that is cancelled at any time has something to close."""
        return Incoming(self, self._root / f"{_INCOMING}{uuid.uuid4().hex}", what, self._max_bytes)

    def stored_bytes(self) -> int:
        """What all copies take, those that are being written included. Raises OSError."""
        return _bytes_of(self._root, "")

    def sweep(self) -> None:
        """Removes the copies that were not used for a while and that no run needs. What cannot be removed is named in
        the log."""
        oldest = time.time() - self._keep_seconds
        try:
            in_use = self._in_use()
            for path in self._root.glob("*.jsonl"):
                if path.name not in in_use:
                    self._remove_if_older(path, oldest)
        except OSError as error:
            log.warning("data that no run needs cannot be removed from %s: %s", self._root, error)

    def _remove_if_older(self, path: Path, oldest: float) -> None:
        with self._lock:
            try:
                if path.stat().st_mtime >= oldest:
                    return
                path.unlink()
            except FileNotFoundError:  # somebody else removed it, and the others are to go nevertheless
                return
            log.info("removed %s: no run needs it", path)

    def _take_room(self, size: int, what: str) -> None:
        """Lets in so many bytes of a copy that is being written, and counts them. Raises RunError where there may not
        be so many, OSError."""
        if not self._max_stored_bytes or self._room_lacking(size) is None:
            return
        self.sweep()
        with self._lock:
            self._kept = None
        if (found := self._room_lacking(size)) is not None:
            kept, arriving = found
            raise RunError(
                "RESOURCE_EXHAUSTED",
                "DISK_FULL",
                f"{what} cannot be stored: this server keeps {kept:,} bytes of data, which unfinished runs need or that"
                f" were used within the last {self._keep_seconds:,.0f} s, and {arriving:,} more are being stored;"
                f" expected at most {self._max_stored_bytes:,} together. Nothing of it was kept: try again once runs"
                " have ended, or raise BURNISH_TRAINING_MAX_STORED_BYTES of the server or lower its"
                " BURNISH_TRAINING_KEEP_DATA_SECONDS",
            )

    def _room_lacking(self, size: int) -> tuple[int, int] | None:
        """Counts so many bytes as arriving; where they do not fit, which are kept and which are arriving instead."""
        with self._lock:
            if self._kept is None:
                self._kept = _bytes_of(self._root, ".jsonl")
            if self._kept + self._arriving + size > self._max_stored_bytes:
                return self._kept, self._arriving
            self._arriving += size
            return None

    def _give_back(self, size: int) -> None:
        """Counts bytes no more that were let in."""
        with self._lock:
            self._arriving -= size

    def _path(self, digest: str) -> Path:
        assert is_digest(digest), "callers' digests are looked at where they come in"
        return self._root / f"{digest.removeprefix('sha256:')}.jsonl"

    def _keep(self, written: Path, digest: str, counted: int) -> Path:
        """Gives a copy its name, not durably yet; `counted` of its bytes arrive no more, but are there."""
        path = self._path(digest)
        with self._lock:
            # One that is there is replaced by the same bytes: two may bring them at once, and whoever reads the old
            # file goes on reading it.
            written.replace(path)
            self._kept = None
            self._arriving -= counted
        return path


class Incoming:
    """A copy being written. Nothing stays of it unless `keep` returned."""

    def __init__(self, store: DataStore, path: Path, what: str, max_bytes: int) -> None:
        self._store = store
        self._written = path
        self._what = what
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None  # opened when something is written
        self._closed = False
        self._hash = hashlib.sha256()
        self._lines = LineCount()
        self._size = 0
        self._counted = 0  # bytes that were let in
        self._spared = 0  # bytes that need not be let in, for a copy that is there has them
        # A call that is cancelled closes this while a thread still writes.
        self._lock = threading.Lock()

    def announce(self, digest: str) -> None:
        """Says which copy this is to be. One that is there takes no more room in the end, so that whoever brings it
        again is not refused for what all take together; what goes beyond its size is another one after all."""
        with contextlib.suppress(OSError):  # `write` meets it again
            if (path := self._store.find(digest)) is not None:
                self._spared = path.stat().st_size

    def write(self, chunk: bytes) -> None:
        """Appends. Raises RunError where it gets too large, or the disk or what this server may keep is full."""
        with self._lock:
            self._size += len(chunk)
            if self._size > self._max_bytes:
                raise RunError(
                    "INVALID_ARGUMENT",
                    "DATA_TOO_LARGE",
                    f"{self._what} has more than {self._max_bytes:,} bytes; expected at most that, the most that this "
                    "server stores: split the data, or raise BURNISH_TRAINING_MAX_DATA_BYTES of the server",
                )
            self._hash.update(chunk)
            self._lines.add(chunk)
            try:
                file = self._opened()  # first: nobody gives back what is counted for one that is closed
                spared = min(len(chunk), self._spared)
                if counted := len(chunk) - spared:
                    self._store._take_room(counted, self._what)
                    self._counted += counted
                self._spared -= spared
                file.write(chunk)
            except OSError as error:
                raise _not_written(self._written.parent, self._what, error) from error

    def keep(self, expected: str) -> StoredFile:
        """Makes what was written a copy; durable when it returns. Raises RunError, also where its digest is not
        `expected` (empty: anything goes)."""
        with self._lock:
            digest = "sha256:" + self._hash.hexdigest()
            if expected not in ("", digest):
                raise RunError(
                    "FAILED_PRECONDITION",
                    "DATA_DIGEST_MISMATCH",
                    f"{self._what} has digest {digest} ({self._size:,} bytes), expected {expected}: its content is "
                    "not what the request was made for, or part of it is missing",
                )
            try:
                file = self._opened()
                file.flush()
                os.fsync(file.fileno())
                path = self._store._keep(self._written, digest, self._counted)
                self._counted = 0
                sync_path(path.parent)
            except OSError as error:
                raise _not_written(self._written.parent, self._what, error) from error
            return StoredFile(path, digest, self._size, self._lines.count)

    def close(self) -> None:
        """Removes what was not kept. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._store._give_back(self._counted)
            self._counted = 0
            if self._file is None:
                return
            self._written.unlink(missing_ok=True)
            try:
                self._file.close()
            except OSError:
                pass  # what it still held back did not fit the disk, and is not wanted

    def _opened(self) -> BinaryIO:
        if self._closed:
            raise ValueError("this copy is closed")
        if self._file is None:
            self._written.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._written.open("xb")
        return self._file


class LineCount:
    """Counts lines that are not blank, as `data.read_data` takes lines, of content that comes in pieces."""

    def __init__(self) -> None:
        self._ended = 0
        self._has_text = False  # the line at hand

    @property
    def count(self) -> int:
        """So far."""
        return self._ended + self._has_text

    def add(self, chunk: bytes) -> None:
        """Goes on with `chunk`."""
        first, *others = chunk.split(b"\n")
        self._has_text |= bool(first.strip())
        for line in others:
            self._ended += self._has_text
            self._has_text = bool(line.strip())


def _bytes_of(folder: Path, ending: str) -> int:
    """What the files of a folder take whose names end so; files may come and go meanwhile. Raises OSError."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(ending):
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat().st_size
    except FileNotFoundError:  # nothing was stored yet
        return 0
    return total


def _not_written(place: Path, what: str, error: OSError) -> RunError:
    if is_disk_full(error):
        return RunError(
            "RESOURCE_EXHAUSTED",
            "DISK_FULL",
            f"{what} cannot be stored: the disk is full ({error}). Nothing of it was kept; make room below {place} "
            "and try again",
        )
    return RunError(
        "FAILED_PRECONDITION",
        "DATA_NOT_STORED",
        f"{what} cannot be stored: {error}; expected a directory {place} that this server may write to",
    )
