"""A lock on a directory: one process at a time may write there, and the system frees it when the process dies."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import ClassVar

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds; a server's grace, and then the time of a worker to write a checkpoint


class DirectoryLocked(RuntimeError):
    """Another server has the directory."""


class DirectoryLock:
    """Holds the lock from construction to `release`. Raises DirectoryLocked where somebody else has it, which says that
    `what` (such as “the vector store”) is in the directory; OSError where there can be no lock. Another process has
    PATIENCE to end: whoever was killed may have left a server behind that finishes what it was asked for."""

    # Record locks are a process's own: an engine's child never inherits them, so a dead server's orphans can't keep
    # its successor out. Within this process they exclude nobody, hence the set.
    _held: ClassVar[set[Path]] = set()

    def __init__(self, directory: Path, what: str) -> None:
        self._path = directory.resolve() / ".lock"
        if self._path in self._held:
            raise DirectoryLocked(_complaint(directory, what, "this very process"))
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait(directory, what)
        except BaseException:
            os.close(self._file)
            raise
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        self._held.add(self._path)

    def _wait(self, directory: Path, what: str) -> None:
        begin = None
        while True:
            try:
                return fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                owner = f"process {os.pread(self._file, 32, 0).decode(errors='replace').strip() or 'unknown'}"
                if begin is None:
                    begin = time.monotonic()
                    log.info("%s in %s is in use by %s; waiting for its end", what, directory, owner)
                if time.monotonic() - begin >= PATIENCE:
                    raise DirectoryLocked(_complaint(directory, what, owner)) from error
                time.sleep(0.1)

    def release(self) -> None:
        """Frees the directory; safe to call twice."""
        if self._path in self._held:
            self._held.discard(self._path)
            os.close(self._file)


def _complaint(directory: Path, what: str, owner: str) -> str:
    return (
        f"{what} in {directory} is in use by {owner}, and only one server may write to it; stop that one, or give this"
        " server a --state-dir of its own"
    )
