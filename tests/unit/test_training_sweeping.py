"""What the supervisor of training removes and ends by itself: only what nobody needs, and whatever goes wrong with it,
no run waits for that."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish_services.training import checkpoints, leftover, state, supervisor
from burnish_services.training.config import TrainingSettings
from burnish_services.training.core import RunSpec
from burnish_services.training.data_store import DataStore
from burnish_services.training.runs import Run, RunDirectory, RunStore
from burnish_services.training.state import Failure, Pause, RunState, Snapshot
from burnish_services.training.supervisor import Supervisor
from tests.unit.test_training_disk import resolved
from tests.waiting import until

DAY = 86400.0
SPEC = RunSpec(base_uri="base", data_uri="data")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    found = RunStore(tmp_path / "runs")
    found.load()
    return found


@pytest.fixture
def data(tmp_path: Path, store: RunStore) -> DataStore:
    return DataStore(tmp_path / "data", 2**20, DAY, store.data_in_use)


@pytest.fixture
def swept(store: RunStore, data: DataStore) -> Supervisor:
    return Supervisor(store, data, TrainingSettings(), SimpleNamespace(prepare=lambda: None))  # type: ignore[arg-type]


def ended(store: RunStore, tmp_path: Path, name: str, days_ago: float, now: RunState = RunState.SUCCEEDED) -> Run:
    run = store.create(name, SPEC, resolved(tmp_path, name))
    at = time.time() - days_ago * DAY
    failure = Failure("INTERNAL", "WORKER_CRASHED", "lost") if now is RunState.FAILED else None
    run.update(Snapshot(state=now, failure=failure, end_time=at), at)
    return run


def saved(run: Run) -> Run:
    place = checkpoints.checkpoint_path(run.directory.checkpoints, 5)
    place.mkdir(parents=True)
    checkpoints.seal(place)
    return run


def paused(store: RunStore, tmp_path: Path, days_ago: float) -> Run:
    run, at = store.create("paused", SPEC, resolved(tmp_path, "paused")), time.time() - days_ago * DAY
    run.update(state.paused(run.snapshot, at, Pause(3, "model", "sha256:model", "schedule")), at)
    return run


def stale(*given: Any) -> bool:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def broken_for(broken: Run, real: Callable[[RunDirectory], bool]) -> Callable[[RunDirectory], bool]:
    return lambda directory: stale() if directory == broken.directory else real(directory)


async def test_runs_that_something_is_still_to_be_done_for_stay_however_long_ago_they_ended(
    store: RunStore, swept: Supervisor, tmp_path: Path
) -> None:
    uncleared = ended(store, tmp_path, "uncleared", 100)
    uncleared.directory.note_placed()
    failed = saved(ended(store, tmp_path, "failed", 100, RunState.FAILED))
    gone = ended(store, tmp_path, "gone", 100)
    newest = ended(store, tmp_path, "newest", 100)
    swept._settings = TrainingSettings(keep_failed_seconds=200 * DAY)
    await swept._sweep()
    assert list(store.oldest_first()) == [uncleared, failed, newest]
    assert not gone.directory.path.exists()
    uncleared.directory.placed.unlink()
    swept._settings = TrainingSettings()
    await swept._sweep()
    assert list(store.oldest_first()) == [newest]


async def test_a_removal_that_was_killed_half_way_is_finished_by_the_next_server(
    store: RunStore, tmp_path: Path
) -> None:
    run, other = ended(store, tmp_path, "killed", 100), ended(store, tmp_path, "other", 100)
    run.directory.path.rename(tmp_path / "runs/.new-gone-0123")  # as `remove` does, and no more
    after = RunStore(tmp_path / "runs")
    after.load()
    assert [one.record.run_id for one in after.oldest_first()] == [other.record.run_id]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [other.record.run_id]
    assert after.create("killed", SPEC, resolved(tmp_path)).record.run_id == run.record.run_id


async def test_what_cannot_be_looked_at_keeps_nothing_else_from_being_removed(
    store: RunStore,
    swept: Supervisor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = saved(ended(store, tmp_path, "broken", 100, RunState.FAILED))
    failed = saved(ended(store, tmp_path, "failed", 8, RunState.FAILED))
    gone = ended(store, tmp_path, "gone", 100)
    newest = ended(store, tmp_path, "newest", 1)
    monkeypatch.setattr(leftover, "is_there", broken_for(broken, leftover.is_there))
    monkeypatch.setattr(leftover, "may_leave", lambda run, *more: stale() if run is broken else False)
    await swept._sweep()
    assert list(store.oldest_first()) == [broken, failed, newest]
    assert not failed.directory.checkpoints.exists()
    assert not gone.directory.path.exists()
    said = [record.getMessage() for record in caplog.records if broken.record.run_id in record.getMessage()]
    assert len(said) == 2
    assert all("the next sweep tries again" in text for text in said)


@pytest.mark.parametrize("part", ["_give_up_waiting", "_failed_with_leftovers", "_outdated", "_ended_for_good"])
async def test_no_start_and_no_run_fails_with_what_cannot_be_swept(
    store: RunStore, swept: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(swept, part, stale)
    monkeypatch.setattr(swept, "_attempt", lambda run: _end(swept, run))
    await swept.start()
    run = store.create("new", SPEC, resolved(tmp_path))
    swept.submit(run)
    await until(lambda: run.snapshot.state.ended)
    assert run.snapshot.state is RunState.CANCELLED, run.snapshot.failure
    await swept.close()


async def _end(swept: Supervisor, run: Run) -> None:
    swept._update(run, state.cancelled(run.snapshot, time.time()))


async def test_a_run_whose_folder_cannot_be_looked_at_when_its_turn_comes_fails_and_says_so(
    store: RunStore, swept: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: stale() if path.name == "cancelled" else real(path))
    run = store.create("new", SPEC, resolved(tmp_path))
    await swept._work(run)
    assert run.snapshot.state is RunState.FAILED
    assert run.snapshot.failure is not None
    assert "Stale" in run.snapshot.failure.message


async def test_a_pause_lasts_no_longer_than_somebody_served(store: RunStore, swept: Supervisor, tmp_path: Path) -> None:
    run = paused(store, tmp_path, 20)  # the service was off for most of that
    await swept.start()
    assert run.snapshot.state is RunState.PAUSED
    swept._serves_since -= 13 * DAY
    await swept._sweep()
    assert run.snapshot.state is RunState.PAUSED
    swept._serves_since -= 2 * DAY
    await swept._sweep()
    assert run.snapshot.state is RunState.CANCELLED
    assert run.snapshot.failure is not None
    assert run.snapshot.failure.reason == "PAUSED_TOO_LONG"
    await swept.close()


async def test_data_count_as_used_until_their_run_has_ended(
    store: RunStore, swept: Supervisor, data: DataStore, tmp_path: Path
) -> None:
    incoming = data.receive("the test")
    incoming.write(b"{}\n")
    copy = incoming.keep("")
    incoming.close()
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.touch()
    for path in (copy.path, elsewhere):
        os.utime(path, (1.0, 1.0))
    asked = replace(resolved(tmp_path), data=copy.path, eval_data=elsewhere)
    run = store.create("long", SPEC, asked)
    await swept._sweep()
    await swept.cancel(run)
    await swept._sweep()
    assert copy.path.exists()
    assert elsewhere.stat().st_mtime == 1.0, "it is not ours"
    os.utime(copy.path, (1.0, 1.0))
    await swept._sweep()
    assert not copy.path.exists()


async def test_a_close_waits_for_no_sweep_that_a_disk_holds(
    store: RunStore, swept: Supervisor, data: DataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, answers = threading.Event(), threading.Event()

    def hang() -> None:
        held.set()
        answers.wait(30)

    monkeypatch.setattr(supervisor, "_SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "_SWEEP_STOPS", 0.1)
    gone = ended(store, tmp_path, "gone", 1)
    ended(store, tmp_path, "newest", 1)
    await swept.start()
    swept._settings = TrainingSettings(keep_ended_seconds=1)
    monkeypatch.setattr(data, "sweep", hang)
    await asyncio.to_thread(held.wait)
    try:
        async with asyncio.timeout(5):
            await swept.close()
    finally:
        answers.set()
    assert gone.directory.path.exists(), "nothing more is begun"
