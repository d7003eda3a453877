"""What a run tells about itself: rates, time left, and a status that other processes can read."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.coordinator import progress
from burnish.coordinator.errors import Interrupted, StepFailed
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.progress import (
    TITLES,
    Observer,
    Observers,
    RateMeter,
    StatusFile,
    StepProgress,
    read_status,
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
