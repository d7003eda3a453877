"""A lock on a directory: one process at a time may write there, and the system frees it when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import ClassVar


class DirectoryLocked(RuntimeError):
    """Another server has the directory."""


class DirectoryLock:
    """Holds the lock from construction to `release`. Raises DirectoryLocked where somebody else has it."""

    # Record locks are a process's own: an engine's child never inherits them, so a dead server's orphans can't keep
    # its successor out. Within this process they exclude nobody, hence the set.
    _held: ClassVar[set[Path]] = set()

    def __init__(self, directory: Path) -> None:
        self._path = directory.resolve() / ".lock"
        if self._path in self._held:
            raise DirectoryLocked(_complaint(directory, "this very process"))
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._file, 32).decode(errors="replace").strip()
            os.close(self._file)
            raise DirectoryLocked(_complaint(directory, f"process {owner or 'unknown'}")) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
        self._held.add(self._path)

    def release(self) -> None:
        """Frees the directory; safe to call twice."""
        if self._path in self._held:
            self._held.discard(self._path)
            os.close(self._file)


def _complaint(directory: Path, owner: str) -> str:
    return (
        f"the vector store in {directory} is in use by {owner}, and only one server may write to it; stop that one, "
        "or give this server a --state-dir of its own"
    )
