"""What `burnish status` tells of a sweep, and of a run whose services still start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish import Client
from burnish.cli import inspect_run
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.ledger import locked
from burnish.coordinator.loop import RunSummary, run_recipe
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import Observer, StatusFile, StepProgress, read_status
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.sweep import Point, begun, sweep
from burnish.testing import FakeServices
from tests.e2e.commands import burnish, complained

HALFWAY = StepProgress(1, 2, "judge", 30, 40, 0, 3.0, 10.0)


def points(data: Path, *seeds: str) -> list[Point]:
    of = FilterSettings(data=(str(data),), model="base")
    return [Point({"seed": seed}, of.model_copy(update={"seed": int(seed)})) for seed in seeds]


def test_a_sweep_that_goes_on_is_told_by_point(client: Client, data: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "sweep", []

    class Looker(Observer):
        begun = 0

        def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
            self.begun += 1

        def step_finished(self, step: StepProgress) -> None:
            if (self.begun, step.name) == (2, "read"):
                seen.extend([burnish("status", out), burnish("status", out, "--json")])

    sweep(points(data, "1", "2", "3"), client, out, observer=Looker())
    here = f"running (process {os.getpid()})"
    assert seen[0].stdout.splitlines() == [
        f"1 of 3 points done; seed=2: {here}",
        "seed=1: done",
        f"seed=2: {here}, before round 1: Reading the data, 43 of 43",
        "seed=3: not begun",
    ]
    told = json.loads(seen[1].stdout)
    assert told["pid"] == os.getpid()
    assert [(one["point"], one["state"]) for one in told["points"]] == [
        ("seed=1", "done"),
        ("seed=2", "running"),
        ("seed=3", "not begun"),
    ]
    assert told["points"][1]["status"]["step"]["name"] == "read"
    assert told["points"][2]["run"] == str(out / "seed=3")
    done = burnish("status", out, "--watch")
    assert done.stdout.splitlines() == ["3 of 3 points done", *(f"seed={seed}: done" for seed in (1, 2, 3))]


def test_a_sweep_is_watched_between_its_points_and_until_nobody_works_on_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = begun(points(data, "1", "2"), tmp_path)
    one = swept.__enter__()
    first = StatusFile(tmp_path / "seed=1/status.json")
    shared = RunPaths(tmp_path / "seed=1", tmp_path / "ledger.duckdb")
    lock = locked(shared.ledger)

    def begin() -> None:
        lock.__enter__()
        first.run_started("filter-1", shared.out, False)
        shared.config.write_text(json.dumps(shared.to_write), encoding="utf-8")

    def fail() -> None:
        first.run_ended(StepFailed("Out of luck."))
        lock.__exit__(None, None, None)

    moments: Iterator[Callable[[], object]] = iter(
        [begin, lambda: first.step_finished(HALFWAY), fail, lambda: None, lambda: swept.__exit__(None, None, None)]
    )
    monkeypatch.setattr(inspect_run, "time", SimpleNamespace(sleep=lambda _seconds: next(moments)()))
    done = burnish("status", tmp_path, "--watch")
    assert next(moments, None) is None
    here = f"(process {os.getpid()})"
    ready = f"process {os.getpid()} makes ready for the next one"
    assert done.stdout.splitlines() == [
        f"0 of 2 points done; {ready}",
        "seed=1: not begun",
        "seed=2: not begun",
        f"0 of 2 points done; seed=1: running {here}",
        f"seed=1: running {here}",
        f"seed=1: running {here}, round 1 of 2: Self-judging quality, 30 of 40, 10.0/s, about 1 s left in this step",
        f"0 of 2 points done, 1 failed; {ready}",
        "seed=1: failed; Out of luck.",
        "0 of 2 points done, 1 failed; nobody works on the others: the same command goes on with them",
    ]
    assert one.out == tmp_path


def test_a_killed_sweep_is_told_by_point(data: Path, tmp_path: Path) -> None:
    with begun(points(data, "1", "2"), tmp_path):
        StatusFile(tmp_path / "seed=1/status.json").run_started("filter-1", tmp_path / "seed=1", False)
        assert "killed" not in burnish("status", tmp_path).stdout, "its turn comes"
    head, killed, _ = burnish("status", tmp_path, "--watch").stdout.splitlines()
    assert head.endswith("; nobody works on the others: the same command goes on with them")
    assert killed.startswith(f"seed=1: interrupted; process {os.getpid()} was killed; run the same command again")


def test_a_run_is_known_while_its_services_start(
    fakes: FakeServices, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from the moment that its ledger is looked for."""
    seen = []

    def look(*arguments: Any, **named: Any) -> RunSummary:
        seen.append(burnish("status", tmp_path / "out").stdout)
        return run_recipe(*arguments, **named)

    monkeypatch.setattr("burnish.cli.run.run_recipe", look)
    arguments = ("run", "filter", "--endpoint", fakes.address, "--model", "base", "--data", data)
    assert burnish(*arguments, "--out", tmp_path / "out").exit_code == 0
    assert seen == [f"a new run: starting (process {os.getpid()})\n"]
    status = read_status(tmp_path / "out")
    assert status is not None
    assert status.state == "done"
    assert burnish(*arguments, "--out", tmp_path / "out", "--seed", "9").exit_code == 2
    again = read_status(tmp_path / "out")
    assert again is not None
    assert again.state == "done", "who is refused leaves no trace"


def test_points_that_could_not_be_done_are_in_the_table_and_end_the_command_with_1(
    fakes: FakeServices, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    words = ("sweep", "filter", "--endpoint", fakes.address, "--model", "base", "--data", data, "--out", out)
    assert burnish(*words, "--vary", "seed=1", "--keep", "0.4").exit_code == 0
    done = burnish(*words, "--vary", "seed=1,2")
    complained(done, 1, "1 of 2 points could not be done", "seed=1: ", "holds run filter-")
    assert "seed=2:" not in done.stderr
    records = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    assert "holds run filter-" in records[0]["error"]
    assert "error" not in records[1]
    assert records[1]["rows_out"] > 0
    head, *drawn = [line.split() for line in done.stdout.splitlines() if line.strip("─ ")]
    assert head[-1] == "error"
    assert drawn[0][-1].endswith("…"), "no more than its beginning"
    assert drawn[1][-1] == "–"
    as_json = burnish(*words, "--vary", "seed=1,2", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)[0]["error"] == records[0]["error"]
    assert json.loads(as_json.stderr)["error"] == "PointsFailed"
