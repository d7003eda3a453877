"""What the books of a run do where the disk is nearly full."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from burnish_services.training import checkpoints
from burnish_services.training.books import RunCallback
from burnish_services.training.state import RunError


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCallback:
    """Of a model whose checkpoint takes 1,200 bytes, and which takes 200 itself, where 1,000 are free."""
    made: Any = RunCallback.__new__(RunCallback)
    model = torch.nn.Linear(10, 10, bias=False)
    made._trainer = SimpleNamespace(
        model=model, agreed=lambda *flags: list(flags), state=SimpleNamespace(global_step=7)
    )
    made._job = SimpleNamespace(
        directory=SimpleNamespace(path=tmp_path, checkpoints=tmp_path / "checkpoints"),
        record=SimpleNamespace(resolved=SimpleNamespace(lora=None, output=tmp_path / "elsewhere" / "model")),
    )
    made._stored = torch.bfloat16
    made._last_save = 0.0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    return made  # type: ignore[no-any-return]


def test_a_checkpoint_that_is_due_is_left_out_for_want_of_room(
    books: RunCallback, caplog: pytest.LogCaptureFixture
) -> None:
    assert not books._has_room(must=False)
    assert books._last_save > 0, "not tried again in the next step"
    assert "no checkpoint after step 7: a checkpoint takes" in caplog.text


def test_a_run_that_has_to_be_written_down_fails_for_want_of_room(books: RunCallback) -> None:
    with pytest.raises(RunError, match="make room and create the run again"):
        books._has_room(must=True)


def test_a_run_that_could_not_publish_fails_while_it_can_be_gone_on_with(
    books: RunCallback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {tmp_path: 1000, tmp_path / "elsewhere": 199}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    assert not books._has_room(must=False), "nothing is won by failing where nothing was saved yet"
    checkpoint = tmp_path / "checkpoints/checkpoint-5"
    checkpoint.mkdir(parents=True)
    checkpoints.seal(checkpoint)
    with pytest.raises(RunError, match=r"nor is there room for the model, .* at .*elsewhere; make room and"):
        books._has_room(must=False)
    assert not books._has_room(must=False, stopping=True), "the next server goes on with it"
    free[tmp_path / "elsewhere"] = 200
    assert not books._has_room(must=False)


def test_with_room_it_is_written(books: RunCallback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1200))
    assert books._has_room(must=True)
