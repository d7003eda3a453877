"""A cell of the efficacy bench on the fake engine: all arms in one ledger, killed and gone on with, and what is read
from it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.efficacy.answers import asked
from bench.efficacy.arms import ARMS, NOISY, ORACLE, control_of, there
from bench.efficacy.cell import Cell
from bench.efficacy.reading import Found, read_cell
from bench.efficacy.runs import arm_runs, made
from bench.efficacy.task import Sizes, divide, write
from bench.efficacy.tasks import procedural
from bench.efficacy.tell import table, tell
from bench.efficacy.work import work
from burnish.coordinator.history import RunHistory
from burnish_services.engine.fake import write_fake_model
from tests.waiting import until

ROWS, WRONG = 20, 6


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """Twenty rows, six of them wrong; not worked yet."""
    folder = tmp_path_factory.mktemp("cell")
    write_fake_model(folder / "model", name="base", seed=1, skill=0.3)
    rows = procedural.read(Path())
    write(divide(rows, procedural.kinds(rows), Sizes(ROWS, 4, 6, WRONG / ROWS), 0), folder / "data")
    return Cell(
        task="procedural",
        noise=WRONG / ROWS,
        seed=0,
        folder=str(folder),
        arms=(NOISY, ORACLE, "direct mix", "clear", "middo", "mads", "bds", "bmo"),
        keep=0.7,
        random_subsets=2,
        score_rows=4,
        max_tokens=128,
        model=str(folder / "model"),
        engine="fake",
        dtype="auto",
        training={"num_epochs": 1.0, "per_device_batch_size": 2},
        settings={"bds": {"selection_epochs": 1}},
        until=float("inf"),
        keep_models=False,
    )


@pytest.fixture(scope="module")
def found(cell: Cell) -> Found:
    """After it was killed once, while the second arm was on its way or done, and begun again."""
    command = [sys.executable, "-m", "bench.efficacy.work", cell.text()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        asyncio.run(until(lambda: len(list(cell.answers.glob("*"))) > 0, 120.0))
        process.send_signal(signal.SIGKILL)
    assert asyncio.run(work(cell)) == []
    return read_cell(cell)


def test_every_arm_has_a_model_of_so_many_rows_and_a_control_of_as_many(cell: Cell, found: Found) -> None:
    assert (found.rows, found.wrong) == (ROWS, WRONG)
    assert found.arms[NOISY].rows == ROWS
    assert found.arms[ORACLE].rows == ROWS - WRONG
    assert found.arms["direct mix"].rows == ROWS + 4
    assert found.arms["bds"].rows == found.arms["mads"].rows == 14
    for name in cell.arms:
        arm = found.arms[name]
        assert arm.losses.values.shape == (6,)
        assert arm.scores is not None
        assert arm.scores.sizes.tolist() == [1.0] * len(asked(cell))
        assert (control_of(name) in found.arms) == ARMS[name].chooses
        if ARMS[name].chooses:
            assert found.arms[control_of(name)].rows == arm.rows
    assert found.arms[control_of("bds")] is found.arms[control_of("mads")]
