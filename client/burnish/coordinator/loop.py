"""The closed loop: Middo from the data set as it came to the polished one, as one resumable run.

    run_middo(settings, client, out_dir)     begins a run in out_dir, or goes on with the one that is there
    resume(out_dir, client)                  goes on with the run that is in out_dir

(and `run_middo_async`, `resume_async` for an AsyncClient on a running event loop). Any of them may be killed at any
moment and called again: only what the ledger lacks is done. Symbols are the paper's: D_t is the data set of round t,
M_t the base model fine-tuned on it; H, S and Q are the rows that are too hard, sparse, and of low quality. What a step
does is in `steps/`, what is decided in `policy/`, how a run is opened and closed in `session.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from burnish._client import AsyncClient, Client
from burnish._types import ModelRef
from burnish.coordinator.policy.middo import Axis, RowSignals
from burnish.coordinator.progress import Observer
from burnish.coordinator.recipes.middo import MiddoSettings, RunOptions
from burnish.coordinator.session import RunSummary, finished, opened, reopened, stopping_on_signals, summary
from burnish.coordinator.steps.decide import decide_round
from burnish.coordinator.steps.measure import base_model, evaluate, judge, neighbors, score
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.refine import assemble_next, refine
from burnish.coordinator.steps.stage import RunContext
from burnish.coordinator.steps.train import prune, train

__all__ = [
    "MiddoSettings",
    "RunOptions",
    "RunSummary",
    "finished",
    "resume",
    "resume_async",
    "run_middo",
    "run_middo_async",
]


async def middo(run: RunContext) -> None:
    """All rounds, and the model trained on what they made."""
    await read(run)  # D_1
    base = await base_model(run)
    await evaluate(run, 0, base)
    for t in range(1, run.settings.rounds + 1):
        if not run.stage(t, "assemble").done:
            await polish(run, base, t)
        prune(run, t)
    last = run.settings.rounds + 1
    await evaluate(run, last, await train(run, last, base))


async def polish(run: RunContext, base: ModelRef, t: int) -> None:
    """One round: from D_t to D_{t+1}."""
    rows = run.book.rows(t)
    samples = list(dict.fromkeys(row.sample_hash for row in rows))  # duplicates share what is measured

    trained = await train(run, t, base)  # M_t; always from the base model
    await evaluate(run, t, trained)

    hard, sparse, low_quality = (axis in run.settings.axes for axis in (Axis.HARD, Axis.SPARSE, Axis.LOW_QUALITY))
    loss_pre = await score(run, t, "score_pre", base, samples) if hard else {}
    loss_post = await score(run, t, "score_post", trained, samples) if hard else {}
    near = await neighbors(run, t, trained, samples) if sparse else {}
    ratings = await judge(run, t, trained, samples) if low_quality else {}

    signals = [
        RowSignals(
            row.row_id,
            row.sample_hash,
            loss_pre.get(row.sample_hash),
            loss_post.get(row.sample_hash),
            near.get(row.sample_hash),
            ratings.get(row.sample_hash, {}),
        )
        for row in rows
    ]
    decisions = decide_round(run, t, signals)  # H, S and Q
    await refine(run, t, base, rows, decisions)
    assemble_next(run, t, rows, decisions)


async def run_middo_async(
    settings: MiddoSettings,
    client: AsyncClient,
    out_dir: Path,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
    stop: asyncio.Event | None = None,
) -> RunSummary:
    """Runs Middo in `out_dir`, or goes on with the run that is there. Setting `stop` ends it cleanly.

    Raises InputError (data, settings), RunMismatch (another run is there), LedgerBusy (another process works on it),
    DiskFull, StepFailed, Interrupted, and the SDK's ServiceError. After any of them but the first two the same call
    goes on where it stopped.
    """
    async with opened(settings, client, out_dir, options, observer, stop) as run:
        await middo(run)
        return summary(run)


async def resume_async(
    out_dir: Path,
    client: AsyncClient,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
    stop: asyncio.Event | None = None,
) -> RunSummary:
    """Goes on with the run in `out_dir` under the settings that it began with; `options` may be new ones. Raises what
    `run_middo_async` does, and LedgerError where no run is there."""
    async with reopened(out_dir, client, options, observer, stop) as run:
        await middo(run)
        return summary(run)


def run_middo(
    settings: MiddoSettings,
    client: Client,
    out_dir: Path,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
) -> RunSummary:
    """`run_middo_async` for scripts and commands. In the main thread, the first SIGINT or SIGTERM stops the run once
    the batches on the way are in (it raises Interrupted), a second one at once."""

    async def work() -> RunSummary:
        async with AsyncClient(client.endpoints, options=client.options) as own:
            with stopping_on_signals(observer) as stop:
                return await run_middo_async(settings, own, out_dir, options=options, observer=observer, stop=stop)

    return asyncio.run(work())


def resume(
    out_dir: Path, client: Client, *, options: RunOptions | None = None, observer: Observer | None = None
) -> RunSummary:
    """`resume_async` for scripts and commands; signals as in `run_middo`."""

    async def work() -> RunSummary:
        async with AsyncClient(client.endpoints, options=client.options) as own:
            with stopping_on_signals(observer) as stop:
                return await resume_async(out_dir, own, options=options, observer=observer, stop=stop)

    return asyncio.run(work())
