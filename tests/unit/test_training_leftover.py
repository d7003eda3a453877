"""Which failed run's checkpoint another run goes on from: that of one of the same kind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish_services.training import checkpoints, leftover, resolve
from burnish_services.training.core import Bilevel, Refinement, RunSpec
from burnish_services.training.runs import Resolved, Run, RunStore, Selection
from burnish_services.training.state import Failure, RunState
from tests.unit.test_training_disk import resolved

KEEP_SECONDS = 60.0


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    found = RunStore(tmp_path / "runs")
    found.load()
    return found


@pytest.fixture
def asked(tmp_path: Path) -> Resolved:
    how = Bilevel("sigmoid", 0.5, penalty_start=0.7, penalty_decay=0.2)
    return replace(resolved(tmp_path), selection=Selection(how, tmp_path / "trusted.jsonl", "sha256:trusted"))


def failed(store: RunStore, asked: Resolved, *, saved: bool = True) -> Run:
    """One that was lost after its first checkpoint, or before it."""
    run = store.create("failed", RunSpec(base_uri="base", data_uri="data"), asked)
    failure = Failure("INTERNAL", "WORKER_CRASHED", "lost")
    run.update(replace(run.snapshot, state=RunState.FAILED, failure=failure, end_time=time.time()), time.time())
    place = checkpoints.checkpoint_path(run.directory.checkpoints, 5)
    place.mkdir(parents=True)
    (place / "weights").write_text("five")
    if saved:
        checkpoints.seal(place)
    return run


def planned(**changes: Any) -> Callable[[Resolved], Resolved]:
    return lambda one: replace(one, plan=replace(one.plan, **changes))


def selected(one: Resolved) -> Resolved:
    assert one.selection is not None
    return replace(one, selection=replace(one.selection, how=replace(one.selection.how, penalty_decay=0.1)))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda one: one, True),
        (
            planned(checkpoint_steps=2, max_loss_ratio=9.0),
            True,
        ),  # when it is saved, and what stops it, change no weight
        (planned(seed=1), False),
        (planned(learning_rate=1e-3), False),
        (selected, False),
        (lambda one: replace(one, refinement=Refinement(1, 1, 0.0, "uniform")), False),
        (lambda one: replace(one, data_digest="sha256:other"), False),
        (lambda one: replace(one, made_by="another release"), False),
    ],
)
def test_a_run_goes_on_from_one_of_its_kind(
    store: RunStore, asked: Resolved, change: Callable[[Resolved], Resolved], same: bool
) -> None:
    other = failed(store, asked)
    run = store.create("next", RunSpec(base_uri="base", data_uri="data"), change(asked))
    assert leftover.find(run, [other], KEEP_SECONDS) is (other if same else None)


def test_what_a_run_was_made_by_follows_the_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = SimpleNamespace(chat_template=None)
    before = resolve._software(site)  # type: ignore[arg-type]
    assert resolve._software(site) == before  # type: ignore[arg-type]
    monkeypatch.setattr(resolve, "release_of", lambda package: "another")
    assert resolve._software(site) != before  # type: ignore[arg-type]


def test_what_was_not_saved_whole_is_not_gone_on_from(store: RunStore, asked: Resolved) -> None:
    other = failed(store, asked, saved=False)
    run = store.create("next", RunSpec(base_uri="base", data_uri="data"), asked)
    assert leftover.find(run, [other], KEEP_SECONDS) is None


def test_what_ended_too_long_ago_or_would_fail_again_is_not_gone_on_from(store: RunStore, asked: Resolved) -> None:
    other = failed(store, asked)
    run = store.create("next", RunSpec(base_uri="base", data_uri="data"), asked)
    assert leftover.find(run, [other], 0.0) is None
    failure = Failure("DATA_LOSS", "NOT_FINITE", "no number")
    other.update(replace(other.snapshot, failure=failure), time.time())
    assert leftover.find(run, [other], KEEP_SECONDS) is None
