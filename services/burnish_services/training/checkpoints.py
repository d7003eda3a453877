"""Checkpoints on disk: which of them are whole. Imports no torch.

A checkpoint is a folder `checkpoint-<step>` and counts only once it is sealed: everything in it is on disk, then a
marker is. So a crash at any moment leaves the previous sealed one or the new one, never a half that is trusted.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from burnish_services.training.runs import sync_directory, write_durably

_SEAL = "sealed.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimiser steps belongs; the name is HF Trainer's."""
    return folder / f"checkpoint-{step}"


def seal(checkpoint: Path) -> None:
    """Declares a checkpoint whole, then removes all others beside it. Raises OSError."""
    sync_tree(checkpoint)
    write_durably(checkpoint / _SEAL, b"{}\n")
    sync_directory(checkpoint.parent)
    for other in checkpoint.parent.iterdir():
        if other != checkpoint:
            shutil.rmtree(other, ignore_errors=True)


def newest(folder: Path, *, clean: bool = True) -> Path | None:
    """The sealed checkpoint with the most steps; None where there is none. Removes what is not sealed, unless it is
    told to leave that to another process."""
    found: list[tuple[int, Path]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and (path / _SEAL).is_file():
            found.append((int(match.group(1)), path))
        elif clean:
            shutil.rmtree(path, ignore_errors=True)
    return max(found)[1] if found else None


def step_of(checkpoint: Path) -> int:
    """Optimiser steps done in a checkpoint that `newest` found."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match.group(1))


def sync_tree(folder: Path) -> None:
    """Waits until every file in a folder is on disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_directory(folder)
