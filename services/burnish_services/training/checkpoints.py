"""Checkpoints on disk: which of them are whole. Imports no torch.

A checkpoint is a folder `checkpoint-<step>` and counts only once it is sealed: everything in it is on disk, then a
list of it is. So a crash at any moment leaves the previous sealed one or the new one, never a half that is trusted; and
what a disk changes afterwards is noticed by the list's checksums.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import zlib
from pathlib import Path

from burnish_services.runtime.files import sync_path, sync_tree, write_whole

log = logging.getLogger(__name__)

_SEAL = "sealed.json"
_CHUNK = 1 << 22
_STEPS = 50
_TIMES_ITS_COST = 30
_NAME = re.compile(r"checkpoint-(\d+)")


class Unreadable(Exception):
    """The disk does not give a checkpoint that may be whole."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps belongs; the name is HF Trainer's."""
    return folder / f"checkpoint-{step}"


def is_due(step: int, asked: int | None, since: float, cost: float) -> bool:
    """Whether a checkpoint belongs after `step`, where the last one is `since` seconds old and took `cost` to write.
    What was `asked` for is done; where nothing was, checkpoints are every 50 steps, and take up to a thirtieth of the
    time: fast steps of a large model would be a small part of it otherwise."""
    if asked is not None:
        return step % asked == 0
    return step % _STEPS == 0 and since >= _TIMES_ITS_COST * cost


def seal(checkpoint: Path) -> None:
    """Declares a checkpoint whole, then removes all others beside it; takes 1 s for about 2 GB. Raises OSError."""
    sync_tree(checkpoint)
    write_whole(checkpoint / _SEAL, json.dumps(_checksums(checkpoint)).encode() + b"\n", durable=True)
    sync_path(checkpoint.parent)
    for other in checkpoint.parent.iterdir():
        if other != checkpoint:
            shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The sealed checkpoint with the most steps; None where there is none. Removes what is not sealed or is damaged.
    Raises Unreadable."""
    try:
        there = list(folder.iterdir())
        sealed = [path for path in there if _NAME.fullmatch(path.name) and _exists(path / _SEAL)]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unreadable(f"{folder} cannot be read: {error}; look after the disk") from error
    whole = [path for path in sealed if _is_undamaged(path)]
    for path in there:
        if path not in whole:
            shutil.rmtree(path, ignore_errors=True)
    return max(whole, key=step_of, default=None)


def sealed(folder: Path) -> Path | None:
    """As `newest`, without a look at what is in it, and without removing anything; whether it is undamaged shows when
    it is gone on from."""
    there = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in there if _NAME.fullmatch(path.name) and (path / _SEAL).is_file()]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Optimiser steps done in a checkpoint that `newest` found."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match.group(1))


def _exists(path: Path) -> bool:
    """As Path.exists, which may take what cannot be looked at for what is not there. Raises OSError."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _checksums(checkpoint: Path) -> dict[str, int]:
    """CRC-32 of each file by its path within the checkpoint."""
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != _SEAL)
    return {str(path.relative_to(checkpoint)): _crc(path) for path in files}


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _is_undamaged(checkpoint: Path) -> bool:
    """Whether everything is as it was sealed; what is not is named in the log."""
    try:
        sealed = json.loads((checkpoint / _SEAL).read_bytes())
        wrong = [name for name, crc in sealed.items() if _crc(checkpoint / name) != crc]
    except (FileNotFoundError, ValueError, AttributeError) as error:
        wrong = [str(error)]
    except OSError as error:  # which may pass: a disk that is mounted again, a quota of open files
        raise Unreadable(f"{checkpoint} cannot be read: {error}; look after the disk") from error
    if wrong:
        log.error(
            "%s is damaged and is not used (not as it was written: %s); look after the disk. The run goes on from an"
            " earlier checkpoint if there is one, else from its first step",
            checkpoint,
            ", ".join(wrong),
        )
    return not wrong
