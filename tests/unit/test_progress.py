"""What a run tells about itself: rates, time left, and a status that other processes can read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.coordinator import progress
from burnish.coordinator.errors import Interrupted, StepFailed
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import (
    TITLES,
    Observer,
    Observers,
    RateMeter,
    StatusFile,
    StepProgress,
    read_status,
    starting,
)
from burnish.coordinator.recipes.registry import SETTINGS

STEP = StepProgress(1, 2, "judge", 10, 40, 4, 5.0, rate=3.0)


def test_time_left_follows_from_the_rate() -> None:
    assert STEP.seconds_left == 10.0
    assert STEP.title == "Self-judging quality"
    assert StepProgress(1, 2, "train", 0, 0, 0, 0.0, rate=3.0).seconds_left is None
    assert StepProgress(1, 2, "train", 0, 9, 0, 0.0).seconds_left is None


def test_a_rate_looks_back_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    meter = RateMeter()
    assert meter.mark(0) is None
    now = 10.0
    assert meter.mark(20) == 2.0
    for step in range(1, 21):
        now = 10.0 + 10 * step
        rate = meter.mark(20 + 50 * step)
    assert rate == pytest.approx(5.0)


def test_a_status_is_running_only_while_somebody_holds_the_ledger(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = StatusFile(tmp_path / "status.json")
    with Ledger.open(tmp_path / "ledger.duckdb"):
        status.run_started("middo-1", tmp_path, False)
        status.step_started(STEP)
        status.noted("Mind the gap.")
        status.step_finished(STEP)
        live = read_status(tmp_path)
        assert live is not None
        assert (live.state, live.run_id, live.step, live.notes) == ("running", "middo-1", STEP, ("Mind the gap.",))
    killed = read_status(tmp_path)
    assert killed is not None
    assert killed.state == "interrupted"
    assert "run the same command again" in killed.message
    (tmp_path / "status.json").write_text("")  # as a machine that went down may leave it
    assert read_status(tmp_path) is None


def written(out: Path, **changed: object) -> None:
    """A status as another process, or one on another host, would have left it."""
    values = json.loads((out / "status.json").read_text(encoding="utf-8"))
    (out / "status.json").write_text(json.dumps(values | changed), encoding="utf-8")


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


def state_of(out: Path) -> str:
    status = read_status(out)
    assert status is not None
    return status.state


def test_a_killed_run_is_not_at_work_because_another_one_of_its_ledger_is(tmp_path: Path) -> None:
    shared = RunPaths(tmp_path / "point", tmp_path / "ledger.duckdb")
    StatusFile(shared.status).run_started("filter-1", shared.out, False)
    shared.config.write_text(json.dumps(shared.to_write), encoding="utf-8")
    with Ledger.open(shared.ledger):
        assert state_of(shared.out) == "running"
        written(shared.out, pid=ended_process())
        assert state_of(shared.out) == "interrupted"


def test_who_holds_a_ledger_of_ones_own_is_who_works_on_the_run(tmp_path: Path) -> None:
    StatusFile(tmp_path / "status.json").run_started("filter-1", tmp_path, False)
    written(tmp_path, pid=ended_process())
    with Ledger.open(tmp_path / "ledger.duckdb"):  # begun again, and not yet so far as to say so
        status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.pid) == ("running", os.getpid())


def test_a_run_says_that_it_starts_before_it_has_a_ledger(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with starting(out):
        assert state_of(out) == "starting"
        written(out, pid=ended_process())
        killed = read_status(out)
        assert killed is not None
        assert (killed.state, killed.at_work) == ("interrupted", False)
        assert "was killed; run the same command again" in killed.message


def test_a_start_that_comes_to_no_run_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StepFailed), starting(out):
        raise StepFailed("no services")
    assert not out.exists()
    StatusFile(out / "status.json").run_ended(None)
    before = (out / "status.json").read_bytes()
    with pytest.raises(StepFailed), starting(out):
        raise StepFailed("no services")
    assert (out / "status.json").read_bytes() == before
    with starting(out):
        StatusFile(out / "status.json").run_ended(StepFailed("later"))
    assert state_of(out) == "failed", "a run that began tells for itself"


def test_of_another_host_it_is_told_when_it_was_heard_last(tmp_path: Path) -> None:
    StatusFile(tmp_path / "status.json").run_started("filter-1", tmp_path, False)
    status = read_status(tmp_path)
    assert status is not None
    written(tmp_path, host=f"not-{socket.gethostname()}", updated_at=status.updated_at - 90)
    status = read_status(tmp_path)
    assert status is not None
    assert status.state == "running"
    assert status.hearsay.startswith("last heard 9")
    assert f"from not-{socket.gethostname()}; cannot be told from here whether it still runs" in status.hearsay
    written(tmp_path, state="done")
    status = read_status(tmp_path)
    assert status is not None
    assert status.hearsay == ""


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (None, "done"),
        (Interrupted("stop"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (StepFailed("no"), "failed"),
        (OSError("no"), "failed"),
    ],
)
def test_a_status_says_how_a_run_ended(tmp_path: Path, error: BaseException | None, state: str) -> None:
    status = StatusFile(tmp_path / "status.json")
    status.run_started("middo-1", tmp_path, True)
    status.run_ended(error)
    ended = read_status(tmp_path)
    assert ended is not None
    assert (ended.state, ended.message) == (state, str(error) if error else "")


def test_a_status_is_written_about_once_a_second(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json")
    status.run_started("middo-1", tmp_path, False)
    before = (tmp_path / "status.json").stat().st_mtime_ns
    for _ in range(20):
        status.step_advanced(STEP)
    assert (tmp_path / "status.json").stat().st_mtime_ns == before


def test_every_step_of_every_recipe_has_a_title() -> None:
    assert {name for kind in SETTINGS.values() for name in kind.STEPS} == set(TITLES)


def test_several_observers_are_told_everything_in_order(tmp_path: Path) -> None:
    told: list[str] = []

    class One(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def noted(self, text: str) -> None:
            told.append(f"{self.name} {text}")

        def step_advanced(self, step: StepProgress) -> None:
            told.append(f"{self.name} {step.done}")

    both = Observers([One("a"), Observer(), One("b")])
    both.run_started("r", tmp_path, False)
    both.step_started(STEP)
    both.step_advanced(STEP)
    both.noted("x")
    both.step_finished(STEP)
    both.run_ended(None)
    assert told == ["a 10", "b 10", "a x", "b x"]
