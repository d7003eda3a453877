"""Models that are made of adapters and their bases: what is left of a merge that died."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from burnish_services.engine.adapters import MergedModels


def test_what_a_process_that_died_was_merging_is_removed(tmp_path: Path) -> None:
    dead, at_work, just_begun = (tmp_path / name for name in (".dead", ".work", ".begun"))
    for folder in (dead, at_work, just_begun):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    long_ago = time.time() - 3600
    for folder in (dead, at_work):
        os.utime(folder, (long_ago, long_ago))
    held = os.open(at_work, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        MergedModels(tmp_path)._sweep_unfinished()
    finally:
        os.close(held)
    assert not dead.exists()
    assert at_work.is_dir()
    assert just_begun.is_dir(), "its process may not hold it yet"
