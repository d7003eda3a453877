"""The grid that a command line asks for: rows of each task, its base model, and its cells, with their data written."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.efficacy.arms import NOISY, Kind
from bench.efficacy.cell import Cell
from bench.efficacy.merge import differs, unlike
from bench.efficacy.record import Record
from bench.efficacy.rows import Fitting, fitting
from bench.efficacy.runs import arm_runs, trained_by
from bench.efficacy.sizes import Estimate, Size, estimate, estimate_base
from bench.efficacy.task import Sizes, TooFew, divide, write
from bench.efficacy.tasks import ANSWERS, TASKS, UnknownFlaw
from bench.efficacy.warm import set_apart
from bench.embedding.setup import say
from burnish import ModelRef
from burnish.coordinator.content import digest_of

Known = Mapping[tuple[str, float, int], Record]  # cells by task, share of noise and seed


def rows_of(given: argparse.Namespace) -> Iterator[tuple[str, Fitting]]:
    """The rows of each task whose data are there. Raises SystemExit where there are none, or a flaw is unknown."""
    found = False
    for name in given.tasks:
        data = given.data.get(name) or TASKS[name].data
        if data is not None and not data.is_file():
            say(f"{name} is left out: {data} is not there; name the file of its rows: --data {name}=FILE")
            continue
        found = True
        rows = fitting(TASKS[name].read(data or Path()), given.model, given.max_tokens)
        try:
            TASKS[name].kinds(rows.rows, given.flaws)
        except UnknownFlaw as error:
            raise SystemExit(f"--flaws: {error}") from error
        yield name, rows
    if not found:
        raise SystemExit("skipped: no task is left; --tasks procedural needs no file")


def seeds_of(given: Size | argparse.Namespace) -> range:
    """The seeds of the cells."""
    return range(given.first_seed, given.first_seed + given.seeds)


def expected_of(
    given: Size | argparse.Namespace, tasks: Mapping[str, Fitting], arms: Sequence[str], known: Known
) -> Estimate:
    """Of all that is to be measured."""
    expected = Estimate()
    for task, rows in tasks.items():
        if given.warm_steps:
            expected += estimate_base(rows, given)
        for noise in given.noise:
            for seed in seeds_of(given):
                found = known.get((task, noise, seed))
                new = [name for name in arms if found is None or name not in found["arms"]]
                expected += estimate(task, new, rows, given, given.rows or len(rows.rows))
    return expected


def training_of(given: argparse.Namespace, steps: int, learning_rate: float) -> dict[str, Any]:
    """The hyperparameters of models that take so many steps; 0: as many as `--epochs` passes have."""
    return {
        # As many passes as the steps take; they end it.
        "num_epochs": float(steps) or given.epochs,
        "max_steps": steps or None,
        "learning_rate": learning_rate,
        "per_device_batch_size": given.per_device,
        "gradient_accumulation_steps": given.batch_size // given.per_device,
        "checkpoint_steps": given.checkpoint_steps,
        "packing": given.packing,
        "dtype": given.train_dtype,
    }


def common(given: argparse.Namespace, task: str) -> dict[str, Any]:
    """What all cells of a task have alike."""
    return {
        "task": task,
        "keep": given.keep,
        "max_tokens": given.max_tokens,
        "engine": given.engine,
        "dtype": given.dtype,
        "batch_tokens": given.batch_tokens,
        "settings": given.settings,
    }


def with_base(given: argparse.Namespace, task: str, rows: Fitting) -> tuple[ModelRef, Fitting]:
    """The base model of a task, trained here where it is to be, and the rows that it has not seen. Raises SystemExit
    where that fails, or there are too few rows."""
    model, count = str(given.model.absolute()), given.warm_steps * given.batch_size
    if not count:
        return ModelRef(model), rows
    try:
        dataset, left = set_apart(rows.rows, count)
    except TooFew as error:
        raise SystemExit(f"{task}, the base model: {error}") from error
    training = training_of(given, given.warm_steps, given.warm_learning_rate)
    folder = (given.out / f"{task}-base-{digest_of([count, given.max_tokens, model, training])[:12]}").absolute()
    write(dataset, folder / "data")
    cell = Cell(
        **common(given, task),
        noise=0.0,
        seed=0,
        folder=str(folder),
        arms=(NOISY,),
        random_subsets=0,
        score_rows=0,
        model=model,
        training=training,
        until=float("inf"),
        keep_models=True,
    )
    say(f"{task}: its base model is trained on {count} clean rows first")
    if problem := work(cell):
        raise SystemExit(problem)
    return trained_by(cell), replace(rows, rows=left)


def cells(
    given: argparse.Namespace, task: str, rows: Sequence[Any], arms: Sequence[str], model: ModelRef, until: float
) -> list[Cell]:
    """Those of one task, with their data written; after `until` none of their arms is begun. Raises SystemExit where
    there are too few rows."""
    training = training_of(given, given.steps, given.learning_rate)
    kinds = partial(TASKS[task].kinds, names=given.flaws)
    found = []
    for noise in given.noise:
        sizes = Sizes(given.rows, given.validation_rows, given.held_out_rows, noise)
        # Not the arms: a cell is gone on with when some are added. A base that is trained anew in the place of another
        # is another one.
        made_of = [task, asdict(sizes), given.max_tokens, model.uri, model.digest, given.engine, given.dtype, training]
        made_of += [sorted(given.flaws)] if list(given.flaws) != [ANSWERS] else []
        # A base that was trained elsewhere, on other processors, is another draw of the same.
        alike = [asdict(sizes), sorted(given.flaws), given.model.name, given.warm_steps, given.warm_learning_rate]
        alike += [given.max_tokens, given.engine, given.dtype, training, given.keep, given.score_rows]
        for seed in seeds_of(given):
            folder = (given.out / f"{task}-{noise:g}-{seed}-{digest_of(made_of)[:12]}").absolute()
            try:
                dataset = divide(rows, kinds, sizes, seed)
            except TooFew as error:
                raise SystemExit(f"{task}, rows of at most {given.max_tokens} tokens: {error}") from error
            cell = Cell(
                **common(given, task),
                noise=noise,
                seed=seed,
                folder=str(folder),
                arms=tuple(arms),
                random_subsets=given.random_subsets,
                score_rows=given.score_rows,
                model=model.uri,
                # A base that was trained elsewhere, on other processors, is another one.
                base=" ".join(filter(None, (given.model.name, model.digest))),
                training=training,
                until=until,
                keep_models=given.keep_models,
                setting=digest_of(alike)[:16],
            )
            write(dataset, folder / "data")
            found.append(cell)
    return found


def without_known(cell: Cell, known: Known) -> Cell:
    """The cell with the arms that are to be measured. Raises SystemExit where what is known is of another one."""
    there = known.get((cell.task, cell.noise, cell.seed))
    if there is not None and there["made_of"] != cell.made_of():
        raise SystemExit(
            f"--known: {cell} is of other data, another model or other hyperparameters there; give the options that it"
            " was measured with (its `command`), or leave --known out"
        )
    runs = list(arm_runs(cell))
    for (task, noise, _), other in known.items():
        if (task, noise) != (cell.task, cell.noise):
            continue
        if problem := unlike(other, {"setting": cell.setting, "arms": {}}):
            raise SystemExit(f"--known: {problem}; give the options that those were measured with (their `command`)")
        for run in runs:
            if run.name in other["arms"] and (problem := differs(other, run.told, run.name)):
                raise SystemExit(f"--known: {problem}; give the --settings that it was measured with, or leave it out")
    if there is None:
        return cell
    rows = {int(one["rows"]) for one in there["arms"].values() if one["kind"] == Kind.CONTROL}
    arms = tuple(name for name in cell.arms if name not in there["arms"])
    return replace(cell, arms=arms, known_rows=tuple(sorted(rows)))


def work(cell: Cell) -> str:
    """One cell, in a process of its own that ends with this one. What went wrong, empty for nothing."""
    command = [sys.executable, "-m", "bench.efficacy.work", cell.text()]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        code = process.wait()
    return f"{cell}: ended with {code}; what it said is above" if code else ""
