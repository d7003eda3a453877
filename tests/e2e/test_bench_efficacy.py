"""A cell of the efficacy bench on the fake engine: all arms in one ledger, killed and gone on with, and what is read
from it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bench.efficacy.answers import Unanswered, answer, answered, asked, samples
from bench.efficacy.arms import ARMS, NOISY, ORACLE, control_of
from bench.efficacy.cell import Cell
from bench.efficacy.grid import with_base, without_known
from bench.efficacy.merge import merged
from bench.efficacy.reading import Found, read_cell
from bench.efficacy.record import record_of
from bench.efficacy.rows import Fitting
from bench.efficacy.runs import arm_runs
from bench.efficacy.task import Sizes, divide, write
from bench.efficacy.tasks import procedural
from bench.efficacy.tell import results_of, table
from bench.efficacy.won import gaps
from bench.efficacy.work import work
from burnish import (
    AsyncClient,
    FinishReason,
    GeneratedResponse,
    ItemStatus,
    ModelRef,
    ModelVersion,
    Prompt,
    PromptResponses,
    ResponseBatch,
    Timing,
)
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
    write(divide(rows, procedural.kinds, Sizes(ROWS, 4, 6, WRONG / ROWS), 0), folder / "data")
    return Cell(
        task="procedural",
        noise=WRONG / ROWS,
        seed=0,
        folder=str(folder),
        arms=(NOISY, ORACLE, "direct mix", "clear", "middo", "middo, agree", "mads", "bds", "bmo"),
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
    """After it was killed once, when the first arm's model was answering or done, and begun again."""
    command = [sys.executable, "-m", "bench.efficacy.work", cell.text()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        asyncio.run(until(lambda: any(cell.answers.glob("*")), 120.0))
        process.send_signal(signal.SIGKILL)
    assert read_cell(cell).arms.keys() < set(cell.arms)
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
        assert arm.scores.values.shape == (4,)
        assert arm.seconds >= arm.trained_seconds > 0
        has_control = ARMS[name].chooses and arm.rows < ROWS  # all rows, or more, leave nothing to chance
        assert (control_of(name) in found.arms) == has_control
        if has_control:
            assert found.arms[control_of(name)].rows == arm.rows
    assert found.arms[control_of("bds")] is found.arms[control_of("mads")]


def test_what_arms_have_in_common_is_done_once_and_charged_to_each(cell: Cell, found: Found) -> None:
    runs = {run.name: run.folder for run in arm_runs(cell)}
    with RunHistory.open(runs[NOISY]) as noisy, RunHistory.open(runs["middo"]) as middo:
        all_rows, first_round = noisy.models()[-1], middo.models()[1]
        assert (all_rows.role, first_round.role, first_round.round) == ("trained", "trained", 1)
        assert all_rows.uri == first_round.uri
        assert not middo.training_losses(1, first_round.training_run)
        assert noisy.training_losses(all_rows.round, all_rows.training_run)
        own = sum(step.seconds for step in middo.steps() if step.name not in ("evaluate", "project", "train"))
    assert found.arms["middo"].seconds >= own + float(str(all_rows.detail["seconds"]))
    for name in ("middo, agree", "clear"):
        alone = read_cell(replace(cell, arms=(name,)))
        assert alone.arms[name].seconds == found.arms[name].seconds, "whether or not who paid is asked about"


def test_how_rows_were_told_apart_is_read_from_decisions(found: Found) -> None:
    for name in ("bds", "bmo", "clear", "middo", "middo, agree"):
        judged = found.arms[name].detection
        assert judged is not None
        assert judged.auroc is not None, name
        assert judged.auroc_by_kind.keys() == judged.by_kind.keys() == {procedural.OTHER_PROCEDURE, procedural.SLIP}
    dropped = found.arms["bds"].detection
    assert dropped is not None
    assert dropped.precision == dropped.recall  # as many rows are dropped as are wrong
    assert found.arms[NOISY].detection is None


def test_no_answer_was_asked_for_twice(cell: Cell, found: Found) -> None:
    for path in cell.answers.iterdir():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
        names = [json.loads(line)["id"] for line in lines]
        assert names == [row.id for row in asked(cell)]


def test_a_cell_that_is_done_needs_neither_services_nor_models(cell: Cell, found: Found) -> None:
    assert not list(cell.runs.glob("*/models"))
    (next(cell.runs.iterdir()) / "models" / "round-1").mkdir(parents=True)  # as where it was killed at the very end
    assert asyncio.run(work(replace(cell, engine="none of them"))) == []
    assert not list(cell.runs.glob("*/models*"))
    assert read_cell(cell).arms.keys() == found.arms.keys()
    cells = [record_of(found)]
    assert json.loads(json.dumps(cells)) == cells
    assert 0 <= cells[0]["base_score"] <= 1, "the base has answered as well"
    assert control_of("mads") in table(cells, gaps(cells))
    assert {one.contender for one in results_of(cells)} == set(found.arms)


def test_arms_that_are_known_are_not_measured_again_and_share_their_controls(cell: Cell, found: Found) -> None:
    whole = record_of(found)
    del whole["arms"]["mads"], whole["signals"]["mads"], whole["arms"][control_of("mads")]
    key = (cell.task, cell.noise, cell.seed)
    left = without_known(cell, {key: whole})
    assert left.arms == ("mads",)
    rest = record_of(read_cell(left))
    assert list(rest["arms"]) == ["mads"]  # random rows as many as bds has are known
    together = merged([{"cells": [whole]}, {"cells": [rest]}])
    assert gaps(together["cells"]) == together["gap"] == gaps([record_of(found)])
    with pytest.raises(SystemExit, match="of other data, another model or other hyperparameters"):
        without_known(replace(cell, training={"num_epochs": 2.0}), {key: whole})
    with pytest.raises(
        SystemExit, match=r"--known: bds of .* has other settings .*: penalty_start 0.8 and 0.9; expected"
    ):
        without_known(replace(cell, settings={"bds": {"selection_epochs": 1, "penalty_start": 0.9}}), {key: whole})
    settings = {**whole["arms"]["bds"]["settings"], "penalty_start": 0.9}
    differently = {**whole, "arms": {"bds": {**whole["arms"]["bds"], "settings": settings}}}
    with pytest.raises(ValueError, match="two files differ: bds of"):
        merged([{"cells": [whole]}, {"cells": [differently]}])
    with pytest.raises(
        SystemExit, match=r"--known: bds of .*, seed 9 has other settings .*: penalty_start 0.9 and 0.8"
    ):
        without_known(cell, {(cell.task, cell.noise, 9): {**differently, "seed": 9}})
    assert without_known(cell, {}) == cell
    elsewhere = {**whole, "seed": 9, "setting": "other"}
    with pytest.raises(SystemExit, match=r"--known: procedural at noise 0.3, seed 9 was measured with other sizes"):
        without_known(cell, {(cell.task, cell.noise, 9): elsewhere})
    with pytest.raises(ValueError, match="seed 9 was measured with other sizes"):
        merged([{"cells": [whole]}, {"cells": [elsewhere]}])


def test_an_arm_whose_held_out_rows_were_not_all_scored_is_left_out_with_a_word(
    cell: Cell, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RunHistory.response_losses

    def lacking(history: RunHistory, hashes: Sequence[str], *model: str) -> dict[str, tuple[float, int]]:
        losses = dict(whole(history, hashes, *model))
        if history.run.recipe == "mads":
            losses.pop(hashes[0])
        return losses

    monkeypatch.setattr(RunHistory, "response_losses", lacking)
    left = read_cell(cell)
    assert found.arms.keys() - left.arms.keys() == {"mads", control_of("mads")}
    (problem,) = left.problems
    assert problem.startswith("procedural, noise 0.3, seed 0: mads: 1 held-out rows were not scored")


async def test_an_answer_that_may_come_another_time_is_asked_for_again(cell: Cell, tmp_path: Path) -> None:
    asked_for: list[str] = []

    class Rewriting:
        async def respond(self, prompts: Sequence[Prompt], **_: object) -> ResponseBatch:
            names = [prompt.id for prompt in prompts]
            first = not asked_for
            asked_for.extend(names)
            busy, never = ItemStatus(14, "BUSY", "busy", retryable=True), ItemStatus(3, "TOO_LONG", "too long")
            said = (GeneratedResponse("yes", FinishReason.STOP, 1, -0.1),)
            results = [PromptResponses(name, ItemStatus(), said) for name in names]
            results[0] = PromptResponses(names[0], busy) if first else results[0]
            results[-1] = PromptResponses(names[-1], never) if first else results[-1]
            return ResponseBatch(ModelVersion("m", "d", "fake", "auto", "t"), tuple(results), Timing())

    client = cast(AsyncClient, SimpleNamespace(rewriting=Rewriting()))
    model, here = ModelRef("m", "d"), replace(cell, folder=str(tmp_path))
    shutil.copytree(cell.files.folder, here.files.folder)
    with pytest.raises(Unanswered, match=r"1 held-out rows got no answer \(busy\); run it again"):
        await answer(here, client, model)
    await answer(here, client, model)
    names = [row.id for row in asked(here)]
    assert asked_for == [*names, names[0]]
    assert answered(here, "d") == {**dict.fromkeys(names, "yes"), names[-1]: ""}


def test_an_arm_that_fails_leaves_the_others(cell: Cell, found: Found, tmp_path: Path) -> None:
    few = replace(
        cell,
        folder=str(tmp_path),
        arms=(NOISY, ORACLE, "clear"),
        settings={"clear": {"threshold": 2.0}},
        score_rows=0,
        keep_models=True,
    )
    shutil.copytree(cell.files.folder, few.files.folder)
    (problem,) = asyncio.run(work(few))
    assert problem.startswith("clear: Not one of 20 rows has a confidence of at least 2.0")
    got = read_cell(few)
    assert got.arms.keys() == {NOISY, ORACLE}
    assert got.arms[NOISY].scores is None


def test_a_base_model_is_trained_once_on_clean_rows_that_no_cell_has(cell: Cell, tmp_path: Path) -> None:
    rows = Fitting(procedural.read(Path())[:200], 44.0, 10.0)
    given = argparse.Namespace(
        model=Path(cell.model), warm_steps=3, warm_learning_rate=5e-4, batch_size=4, per_device=2, held_out_rows=5,
        max_tokens=128, epochs=1.0, learning_rate=1e-4, checkpoint_steps=None, packing=False, train_dtype="float32",
        keep=0.7, engine="fake", dtype="auto", batch_tokens=1024, settings={}, out=tmp_path,
    )  # fmt: skip
    model, left = with_base(given, "procedural", rows)
    (folder,) = tmp_path.iterdir()
    seen = [*samples(folder / "data/training.jsonl"), *samples(folder / "data/held-out.jsonl")]
    assert (len(seen), len(left.rows), left.tokens) == (24, len(rows.rows) - 24, 44.0)
    assert not {sample.messages[1].content for sample in seen} & {row.prompt for row in left.rows}
    assert not (folder / "data/truth.jsonl").read_text()
    assert model.uri.startswith(str(folder))
    assert model.digest
    assert with_base(given, "procedural", rows) == (model, left)
    shutil.rmtree(model.uri)
    with pytest.raises(SystemExit, match="the base model is gone; delete that folder"):
        with_base(given, "procedural", rows)
    given.warm_steps = 60
    with pytest.raises(SystemExit, match=r"procedural, the base model: 1\d\d of 200 rows are there to train it on"):
        with_base(given, "procedural", rows)
    given.warm_steps = 0
    assert with_base(given, "procedural", rows) == (ModelRef(cell.model), rows)
