"""kill -9 at any moment, Ctrl-C, a full disk: run the same command again, and the result is the same byte for byte."""

from __future__ import annotations

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from burnish.coordinator.loop import RunOptions
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.killing import Child, Work
from tests.e2e.support import alpaca, digest_of_final, history, write_jsonl

KILLS = 12
KILLS_A_CHAIN = 6  # of one run, until it is left alone
ROWS = 60
# The fake engine's models are rarely sure of anything.
PROPOSE = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64}
MORE: dict[str, dict[str, Any]] = {
    "middo": {"hold_size": 55},
    "clear": {"eta": 0.55, "candidates": 2, "propose": PROPOSE, "hold_size": 25},
    # Three passes of eight steps each, with a pause after each but the last.
    "bmo": {
        "validation_split": 6,
        "online_share": 0.3,
        "keep": 0.6,
        "compare": False,
        "training": {"per_device_batch_size": 4, "gradient_accumulation_steps": 2},
    },
    "mads": {"random_subsets": 2, "calibration_size": 30, "optimizer": "stochastic"},
}


class Coordinators:
    """Starts coordinators on one data set."""

    def __init__(self, services: FakeEngineServices, folder: Path, recipe: str, **more: Any) -> None:
        self.more = MORE[recipe] | more
        self.services = services
        self.folder = folder
        self.recipe = recipe
        self.data = write_jsonl(folder / "data.jsonl", alpaca(ROWS, duplicates=3))
        self.holdout = write_jsonl(folder / "holdout.jsonl", alpaca(3))

    def start(self, out: Path, *, limit: int = 0) -> Child:
        """A coordinator at work; `limit`: most bytes that a file of it may have."""
        settings = {"data": str(self.data), "model": str(self.services.model), "rounds": 1, "seed": 7}
        settings |= self.more | {"holdout": [str(self.holdout)]}
        options = RunOptions(batch_size=4, max_in_flight=2)
        return Child(Work(self.services.address, self.recipe, settings, out, options, file_bytes=limit))

    def finish(self, out: Path) -> None:
        """A coordinator that is left alone until it is done."""
        child = self.start(out)
        assert child.end() == 0, child.lines


@pytest.fixture(scope="module")
def coordinators(services: FakeEngineServices, tmp_path_factory: pytest.TempPathFactory) -> Coordinators:
    return Coordinators(services, tmp_path_factory.mktemp("runs"), "middo")


@pytest.fixture(scope="module")
def clear(services: FakeEngineServices, tmp_path_factory: pytest.TempPathFactory) -> Coordinators:
    return Coordinators(services, tmp_path_factory.mktemp("clear"), "clear")


@pytest.fixture(scope="module")
def undisturbed(coordinators: Coordinators) -> tuple[str, float]:
    return left_alone(coordinators)


def left_alone(coordinators: Coordinators) -> tuple[str, float]:
    """Digest of what a run makes that nothing disturbs, and the seconds that it takes."""
    out = coordinators.folder / "undisturbed"
    started = time.monotonic()
    coordinators.finish(out)
    return digest_of_final(out), time.monotonic() - started


def test_a_run_killed_twelve_times_makes_the_same_data(
    coordinators: Coordinators, undisturbed: tuple[str, float]
) -> None:
    killed(coordinators, undisturbed, KILLS, steps=3)


def test_a_run_of_middo_that_tries_its_rewrites_killed_in_each_step_of_that_makes_the_same_data(
    services: FakeEngineServices, tmp_path: Path
) -> None:
    trying = Coordinators(services, tmp_path, "middo", accept="agree", rejected="drop", share_quality=0.5)
    expected, _ = left_alone(trying)
    with history(tmp_path / "undisturbed") as h:
        verdicts = h.acceptance.of_round(1)
        assert {one.refusal for one in verdicts} >= {"", "loss", "rating"}
        assert any(one.dropped for one in verdicts)
    out = tmp_path / "killed"
    for moment in ("1 refine", "1 score_rewrites", "1 judge_rewrites", "1 accept"):
        child = trying.start(out)
        child.until(moment)
        child.signal(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL
    trying.finish(out)
    assert digest_of_final(out) == expected
    with history(out) as h:
        assert h.acceptance.of_round(1) == verdicts


def test_a_run_of_clear_killed_six_times_makes_the_same_data(clear: Coordinators) -> None:
    expected = left_alone(clear)
    with history(clear.folder / "undisturbed") as h:
        actions = {decision.actions[0] for decision in h.decisions(1)}
    assert actions == {"keep", "correct", "drop"}
    killed(clear, expected, KILLS // 2)


def test_a_run_of_mads_killed_six_times_makes_the_same_data(services: FakeEngineServices, tmp_path: Path) -> None:
    mads = Coordinators(services, tmp_path, "mads")
    expected = left_alone(mads)
    with history(tmp_path / "undisturbed") as h:
        assert {decision.actions[0] for decision in h.decisions(1)} == {"keep", "drop"}
        assert len([model for model in h.models() if model.eval_loss is not None]) == 5
    killed(mads, expected, KILLS // 2)


def test_a_run_of_bmo_killed_six_times_makes_the_same_data(services: FakeEngineServices, tmp_path: Path) -> None:
    bmo = Coordinators(services, tmp_path, "bmo")
    expected = left_alone(bmo)
    with history(tmp_path / "undisturbed") as h:
        assert {decision.actions[0] for decision in h.decisions(1)} == {"keep", "refine", "drop", "validate"}
        assert [(one.step, one.stopped) for one in h.refreshes.of_round(1)] == [(8, ""), (16, "")]
        model = next(model for model in h.models() if model.round == 1)
    killed(bmo, expected, KILLS // 2, steps=1)
    out = tmp_path / "killed-in-pauses"
    for moment in ("1 respond", "1 probe", "1 weigh"):
        child = bmo.start(out)
        child.until(moment)
        child.signal(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL
    bmo.finish(out)
    assert digest_of_final(out) == expected[0]
    for folder in tmp_path.glob("killed-*"):
        with history(folder) as h:
            assert next(one for one in h.models() if one.round == 1).digest == model.digest


def killed(coordinators: Coordinators, undisturbed: tuple[str, float], kills: int, *, steps: int = 2) -> None:
    """Runs that are killed, `kills` times in all and in at least `steps` steps, make the undisturbed one's data."""
    expected, seconds = undisturbed
    chains = -(-kills // KILLS_A_CHAIN)

    def chain(number: int) -> list[str]:
        """One run, killed at seeded moments until it has been killed often enough, and then left alone."""
        out = coordinators.folder / f"killed-{number}"
        moments = random.Random(number)
        where: list[str] = []
        while len(where) < len(range(number, kills, chains)):
            child = coordinators.start(out)
            time.sleep(moments.uniform(0.0, 0.4 * seconds))
            if not child.running:  # through before its time; another run takes the remaining kills
                assert child.end() == 0, child.lines
                assert digest_of_final(out) == expected
                out = out.with_name(out.name + "x")
                continue
            child.signal(signal.SIGKILL)
            assert child.end() == -signal.SIGKILL
            where.append(child.lines[-1])
        coordinators.finish(out)
        assert digest_of_final(out) == expected
        with history(out) as h:
            assert all(step.state == "done" and step.done == step.total for step in h.steps())
            assert h.run.finished_at is not None
        return where

    with ThreadPoolExecutor(2) as pool:
        killed_in = [where for chained in pool.map(chain, range(chains)) for where in chained]
    print("killed in:", ", ".join(sorted(killed_in)))
    hit = {" ".join(where.split()[:2]) for where in killed_in} - {"started"}
    assert len(hit) >= steps, f"they fell into {hit} alone, and prove little"


def test_ctrl_c_stops_after_the_batches_on_the_way_and_says_how_to_go_on(
    coordinators: Coordinators, undisturbed: tuple[str, float]
) -> None:
    out = coordinators.folder / "interrupted"
    child = coordinators.start(out)
    child.until("1 judge")
    child.signal(signal.SIGINT)
    assert child.end() == 130, child.lines
    assert "run the same command again" in child.lines[-1]
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "interrupted"
    with history(out) as h:
        (judge,) = [step for step in h.steps() if step.name == "judge"]
        assert judge.state == "running"
        assert judge.done < judge.total
    coordinators.finish(out)
    assert digest_of_final(out) == undisturbed[0]


def test_a_disk_that_fills_up_while_writing_loses_nothing(
    coordinators: Coordinators, undisturbed: tuple[str, float]
) -> None:
    """A limit on the size of files stands in for the disk; the write-ahead log meets it while rows are judged."""
    out = coordinators.folder / "full"
    child = coordinators.start(out, limit=200_000)
    assert child.end() == 1, child.lines
    *_, step, error = child.lines
    assert step == "1 judge"
    assert "a quota on it, is full" in error
    assert "run the same command again" in error
    coordinators.finish(out)
    assert digest_of_final(out) == undisturbed[0]


def test_a_disk_that_fills_up_when_the_ledger_closes_loses_nothing(
    coordinators: Coordinators, undisturbed: tuple[str, float]
) -> None:
    """What could not be moved from the log to the database stays in the log."""
    whole = (coordinators.folder / "undisturbed/ledger.duckdb").stat().st_size
    out = coordinators.folder / "full-at-the-end"
    coordinators.start(out, limit=whole // 2).end()
    assert (out / "ledger.duckdb.wal").exists()
    with history(out) as h:
        assert h.datasets()[-1].round == 2
    coordinators.finish(out)
    assert not (out / "ledger.duckdb.wal").exists()
    assert digest_of_final(out) == undisturbed[0]
