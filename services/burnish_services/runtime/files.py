"""Files that are there whole or not at all, and that outlast a loss of power."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, content: bytes, *, durable: bool) -> None:
    """Writes a file so that a reader sees all of it or none; where it is to be `durable`, so does the next process
    after a crash. Raises OSError."""
    with _whole(path, durable=durable) as file:
        file.write(content)


def copy_durably(source: Path, path: Path) -> None:
    """As a durable `write_whole`, what another file has, however large. Raises OSError."""
    with source.open("rb") as given, _whole(path, durable=True) as file:
        shutil.copyfileobj(given, file)


def unfinished(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f".{path.name}.tmp")


def sync_path(path: Path) -> None:
    """Makes what a file holds, or renames in a directory, survive a loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits until everything in a folder is on disk. Raises OSError."""
    for path in folder.rglob("*"):
        if path.is_dir() or path.is_file():
            sync_path(path)
    sync_path(folder)


@contextmanager
def _whole(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    beside = unfinished(path)
    try:
        with beside.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)  # on a full disk it would keep its room
        raise
    if durable:
        sync_path(path.parent)
