"""A lock on a directory: one process at a time may write there, and the system frees it when the process dies."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class DirectoryLocked(RuntimeError):
    """Another server has the directory; `is_own`: one of this very process."""

    def __init__(self, what: str, directory: Path, owner: str, *, is_own: bool = False) -> None:
        super().__init__(
            f"{what} in {directory} is in use by {owner}, and only one server may write to it; stop that one, or give"
            " this server a --state-dir of its own"
        )
        self.is_own = is_own


def patiently(take: Callable[[], T], seconds: float) -> T:
    """What `take` returns, for so long tried again where another process has the directory: whoever was killed may have
    left a server behind that finishes what it was asked for. Blocking. Raises DirectoryLocked, and what `take` does."""
    end = time.monotonic() + seconds
    told = False
    while True:
        try:
            return take()
        except DirectoryLocked as error:
            if error.is_own or time.monotonic() >= end:
                raise
            if not told:
                log.warning("waiting up to %.0f s: %s", seconds, error)
            told = True
            time.sleep(0.1)


class DirectoryLock:
    """Holds the lock from construction to `release`. Raises DirectoryLocked where somebody else has it, which says that
    `what` (such as “the vector store”) is in the directory; OSError where there can be no lock."""

    # Record locks are a process's own: an engine's child never inherits them, so a dead server's orphans can't keep
    # its successor out. Within this process they exclude nobody, hence the set.
    _held: ClassVar[set[Path]] = set()

    def __init__(self, directory: Path, what: str) -> None:
        self._path = directory.resolve() / ".lock"
        if self._path in self._held:
            raise DirectoryLocked(what, directory, "this very process", is_own=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._file, 32).decode(errors="replace").strip()
            os.close(self._file)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise DirectoryLocked(what, directory, f"process {owner or 'unknown'}") from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        self._held.add(self._path)

    def release(self) -> None:
        """Frees the directory; safe to call twice."""
        if self._path in self._held:
            self._held.discard(self._path)
            os.close(self._file)
