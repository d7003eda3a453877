"""When the books of a run have a checkpoint written, and what they do where the disk is nearly full."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from burnish_services.training import checkpoints
from burnish_services.training.books import RunCallback, Sums, checkpoint_bytes
from burnish_services.training.core import Plan
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
    made._needed = checkpoint_bytes(model)
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


def test_a_checkpoint_takes_what_is_trained_three_times() -> None:
    model = torch.nn.Linear(10, 10, bias=False)
    model.register_parameter("frozen", torch.nn.Parameter(torch.zeros(50), requires_grad=False))
    assert checkpoint_bytes(model) == 3 * 4 * 100


def test_with_room_it_is_written(books: RunCallback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1200))
    assert books._has_room(must=True)


@pytest.mark.parametrize(
    ("step", "asked", "since", "cost", "due"),
    [
        (50, None, 0.0, 0.0, True),  # the first: what it costs is not known yet
        (51, None, 900.0, 0.0, False),
        (100, None, 299.0, 10.0, False),
        (100, None, 300.0, 10.0, True),
        (7, 7, 0.1, 10.0, True),  # asked for, whatever it costs
        (50, 7, 900.0, 0.0, False),
    ],
)
def test_when_a_checkpoint_is_due(step: int, asked: int | None, since: float, cost: float, *, due: bool) -> None:
    assert checkpoints.is_due(step, asked, since, cost) == due


def saved_after(made: Any, step: int, *, is_first: bool = True) -> bool:
    """Whether the books have a checkpoint written at the end of a step; where they have, it is."""
    made._trainer.world.is_first = is_first
    state, folder = SimpleNamespace(global_step=step), made._job.directory.checkpoints
    control = made.on_step_end(None, state, SimpleNamespace(should_save=False))
    if control.should_save:
        checkpoints.checkpoint_path(folder, step).mkdir(parents=True)
        made.on_save(SimpleNamespace(output_dir=folder), state, control)
    return bool(control.should_save)


def test_checkpoints_that_are_slow_to_write_are_further_apart(
    books: RunCallback, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = books
    clock = [0.0]
    monkeypatch.setattr("burnish_services.training.books.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def write(checkpoint: Path) -> None:
        clock[0] += 10

    made._trainer = SimpleNamespace(
        step_tokens=1,
        step_loss=1.0,
        finish_step=lambda: None,
        agreed=lambda *flags: list(flags),
        world=SimpleNamespace(is_first=True),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
        save_to=write,
    )
    made._job = SimpleNamespace(
        stop=SimpleNamespace(is_set=lambda: False),
        checkpoint_seconds=600.0,
        directory=made._job.directory,
        record=SimpleNamespace(resolved=SimpleNamespace(refinement=None)),
        report=SimpleNamespace(send=lambda message: None),
    )
    made._plan, made._steps, made._recent = Plan(), 10_000, []
    made.sums, made._step_began, made._last_save, made._save_began, made._save_seconds = Sums(), 0.0, 0.0, 0.0, 1.6
    monkeypatch.setattr(made, "report", lambda step: None)
    monkeypatch.setattr(made, "_has_room", lambda **how: True)
    monkeypatch.setattr(checkpoints, "seal", lambda checkpoint: None)
    saved = []
    for step in range(1, 1001):
        clock[0] += 1
        if saved_after(made, step):
            saved.append(step)
    assert saved == [50, 350, 650, 950], "each took 10 seconds: 300 are between two"
    clock[0] += 1000
    assert not saved_after(made, 1050, is_first=False), "only the first process knows what writing takes"
    assert saved_after(made, 1051), "the last one is too old"
