"""Models that are made of adapters and their bases: what is left of a merge that died, and two at a time."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish_services.engine import adapters
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


@pytest.fixture
def merges(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The adapters that were merged; a merge takes a while and makes one file."""
    done: list[Path] = []

    def merge(base: Path, adapter: Path, into: Path) -> None:
        time.sleep(0.05)
        (into / "model.safetensors").write_bytes(b"whole")
        done.append(adapter)

    monkeypatch.setitem(sys.modules, "burnish_services.engine.merging", SimpleNamespace(merge=merge))
    monkeypatch.setattr(adapters, "adapter_base", lambda path, roots: path.parent / "base")
    monkeypatch.setattr(adapters, "model_digest", lambda path: f"sha256:{path.name}")
    return done


def test_two_engines_that_ask_at_a_time_get_one_model(tmp_path: Path, merges: list[Path]) -> None:
    models = MergedModels(tmp_path / "merged")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(models.whole, [tmp_path / "adapter"] * 4))
    assert found == {tmp_path / "merged/adapter"}
    assert merges == [tmp_path / "adapter"]


def test_what_an_engine_may_be_reading_stays(tmp_path: Path, merges: list[Path]) -> None:
    models = MergedModels(tmp_path / "merged")
    there = [models.whole(tmp_path / name) for name in ("a", "b", "c")]
    assert all(path.is_dir() for path in there)
    long_ago = time.time() - 3600
    for path in there:
        os.utime(path, (long_ago, long_ago))
    models.whole(tmp_path / "d")
    assert [path.is_dir() for path in there].count(True) == 1, "two in all"
