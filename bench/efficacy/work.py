"""One cell, in a process of its own with services of its own: `python -m bench.efficacy.work CELL`.

May be killed at any moment and begun again: runs go on from their ledger, and answers that were given are not asked for
again. A cell that is done needs no services.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from bench.efficacy.answers import Unanswered, answer, answered, asked
from bench.efficacy.cell import Cell
from bench.efficacy.plain import PLAIN, plain
from bench.efficacy.runs import Planned, arm_runs, base_of, control_runs, control_sizes, made
from bench.embedding.setup import say
from burnish import AsyncClient, ModelRef, ServiceError
from burnish.coordinator.errors import InputError, StepFailed
from burnish.coordinator.progress import Observer, StepProgress
from burnish.coordinator.recipes.registry import METHODS
from burnish.coordinator.session import opened, summary
from burnish.local import EngineOptions, LocalServices


def main() -> None:
    """See the module."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    cell = Cell.parse(sys.argv[1])
    problems = asyncio.run(work(cell))
    if problems:
        raise SystemExit("\n".join(f"{cell}: {problem}" for problem in problems))


def end_with_parent() -> None:
    """Ends this process, and so its services, once nobody holds the other end of standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


async def work(cell: Cell) -> list[str]:
    """All arms, and then their controls. What went wrong; empty for nothing."""
    arms = list(arm_runs(cell))
    base = base_of(arms)
    if all(done(cell, run) for run in [*arms, *_controls(cell, arms)]) and (base is None or _has_answered(cell, base)):
        tidy(cell)
        return []
    if time.time() > cell.until:
        return ["no time was left to begin it; the same command does"]
    problems = []
    roles = {role for run in arms for role in run.settings.services()} | ({"rewriting"} if asked(cell) else set())
    with services(cell, tuple(sorted(roles))) as local:
        async with AsyncClient(local.endpoints) as client:
            for run in arms:
                problems += await run_one(cell, client, run)
            for run in _controls(cell, arms):
                problems += await run_one(cell, client, run)
            problems += await _answer_by_base(cell, client, arms)
    if not problems:
        tidy(cell)
    return problems


def tidy(cell: Cell) -> None:
    """Removes the models of a cell that is done, unless they are to be kept. All of a run's at once, so that a kill
    leaves none that is there in part, which an arm that is added later would take for whole."""
    if cell.keep_models or not cell.runs.is_dir():
        return
    for folder in cell.runs.iterdir():
        models, gone = folder / "models", folder / "models.gone"
        shutil.rmtree(gone, ignore_errors=True)
        if models.is_dir():
            models.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _controls(cell: Cell, arms: list[Planned]) -> list[Planned]:
    return [run for rows in control_sizes(cell, arms) for run in control_runs(cell, rows)]


def done(cell: Cell, run: Planned) -> bool:
    """Whether a run has ended, and its model has answered."""
    found = made(run.folder)
    return found is not None and _has_answered(cell, found.model)


def _has_answered(cell: Cell, model: ModelRef) -> bool:
    return answered(cell, model.digest or "").keys() >= {row.id for row in asked(cell)}


async def _answer_by_base(cell: Cell, client: AsyncClient, arms: list[Planned]) -> list[str]:
    """What the base model answers, to tell what it can do. What went wrong."""
    base = base_of(arms)
    if base is None or _has_answered(cell, base):
        return []
    if time.time() > cell.until:
        return ["no time was left for the base model's answers; the same command goes on"]
    try:
        await answer(cell, client, base)
    except (ServiceError, Unanswered) as error:
        return [f"the base model's answers: {error}"]
    return []


async def run_one(cell: Cell, client: AsyncClient, run: Planned) -> list[str]:
    """One run to its end, and its model's answers. What went wrong: one arm that fails leaves the others."""
    if done(cell, run):
        return []
    if time.time() > cell.until:
        return [f"no time was left for {run.name}; the same command goes on"]
    began = time.monotonic()
    try:
        found = made(run.folder)
        if found is None:
            watch = Watch(cell, run)
            async with opened(run.settings, client, run.folder, None, watch, None, cell.ledger) as context:
                await (plain if run.settings.RECIPE == PLAIN else METHODS[run.settings.RECIPE])(context)
                summary(context)
            found = made(run.folder)
            assert found is not None
        elif not await asyncio.to_thread(Path(found.model.uri).is_dir):
            return [f"{run.name}: its model is gone, so that it cannot answer more rows; take another --out"]
        await answer(cell, client, found.model)
    except (InputError, StepFailed, ServiceError, Unanswered) as error:
        return [f"{run.name}: {error}"]
    say(f"{cell}: {run.name}: {found.rows} rows, {time.monotonic() - began:.0f} s")
    return []


class Watch(Observer):
    """Tells of steps that take their time, so that somebody who waits sees that it goes on."""

    def __init__(self, cell: Cell, run: Planned) -> None:
        self._about = f"{cell}: {run.name}"

    def step_finished(self, step: StepProgress) -> None:
        """See Observer."""
        if step.seconds >= 1:
            say(f"{self._about}: round {step.round} {step.name}, {step.seconds:.0f} s")


def services(cell: Cell, roles: tuple[str, ...]) -> LocalServices:
    """To be started; what they keep is in the cell's folder."""
    return LocalServices(
        roles,
        state_dir=cell.services,
        model=cell.model,
        engine=cell.engine,  # type: ignore[arg-type]
        options=EngineOptions(dtype=cell.dtype, batch_tokens=cell.batch_tokens),
    )


if __name__ == "__main__":
    main()
