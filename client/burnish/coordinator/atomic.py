"""Writing files whole or not at all, and telling a full disk from other trouble."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from burnish.coordinator.content import as_json
from burnish.coordinator.errors import DiskFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def writing_whole(path: Path, *, durable: bool = True, alone: bool = True) -> Iterator[IO[bytes]]:
    """A stream whose bytes stand at `path` once the block ends well; after an exception nothing has changed. `durable`
    waits for the disk. `alone`: nobody else writes there, and what a killed one left is overwritten. Raises
    DiskFull."""
    own = "" if alone else f".{os.getpid()}"
    temporary = path.with_name(f".{path.name}{own}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in FULL:
            raise disk_full(path, error) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Has the disk know what is in a folder by which name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # a file system that knows no such thing
            raise
    finally:
        os.close(handle)


def write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> str:
    """Writes each as JSON on a line of its own, whole or not at all; returns `sha256:` and the digest of the bytes."""
    digest = hashlib.sha256()
    with writing_whole(path) as stream:
        for record in records:
            line = as_json(record).encode("utf-8") + b"\n"
            digest.update(line)
            stream.write(line)
    return f"sha256:{digest.hexdigest()}"


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    with writing_whole(path, durable=durable) as stream:
        stream.write(json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8") + b"\n")


def disk_full(path: Path, error: Exception) -> DiskFull:
    """The error to raise where writing `path` failed for want of room."""
    return DiskFull(
        f"{path} cannot be written: {error}. The disk, or a quota on it, is full. Everything committed so far is safe:"
        " free some room and run the same command again; it goes on from there."
    )
