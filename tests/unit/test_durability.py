"""What outlasts a loss of power: bytes are on disk before their name is, and the name before anybody is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from burnish.coordinator.atomic import write_json, write_lines
from burnish_services.runtime.files import copy_durably, write_whole
from burnish_services.training import checkpoints


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What is asked of the disk, in its order: `sync` of a file or folder by its name at that moment, and `rename` to
    a name."""
    asked: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        asked.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        asked.append(("rename", Path(target)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    return asked


def given(folder: Path) -> Path:
    path = folder / "given"
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {"a": 1}),
        lambda path: write_lines(path, [{"a": 1}, {"b": 2}]),
        lambda path: write_whole(path, b"x", durable=True),
        lambda path: copy_durably(given(path.parent), path),
    ],
    ids=["write_json", "write_lines", "write_whole", "copy_durably"],
)
def test_bytes_are_on_disk_before_the_name_and_the_name_before_it_returns(
    write: Callable[[Path], object], tmp_path: Path, done: list[tuple[str, Path]]
) -> None:
    path = tmp_path.resolve() / "written"
    write(path)
    (first, beside), *rest = done
    assert (first, beside.parent) == ("sync", path.parent)
    assert beside.name.startswith(".written.")
    assert rest == [("rename", path), ("sync", path.parent)]


@pytest.mark.parametrize("write", [write_json, lambda path, _, durable: write_whole(path, b"x", durable=durable)])
def test_what_need_not_outlast_anything_waits_for_no_disk(
    write: Callable[..., object], tmp_path: Path, done: list[tuple[str, Path]]
) -> None:
    write(tmp_path / "written", {}, durable=False)
    assert done == [("rename", tmp_path / "written")]


def test_all_of_a_checkpoint_is_on_disk_before_it_is_declared_whole(
    tmp_path: Path, done: list[tuple[str, Path]]
) -> None:
    checkpoint = checkpoints.checkpoint_path(tmp_path.resolve(), 3)
    (checkpoint / "shards").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "shards/0.pt"):
        (checkpoint / name).write_bytes(name.encode())
    held = {checkpoint, *checkpoint.rglob("*")}

    checkpoints.seal(checkpoint)

    sealed = done.index(("rename", checkpoint / "sealed.json"))
    before, after = done[:sealed], done[sealed + 1 :]
    assert {path for _, path in before} >= held
    assert after == [("sync", checkpoint), ("sync", checkpoint.parent)], "the seal's name, and then the checkpoint's"
    assert checkpoints.newest(checkpoint.parent) == checkpoint
