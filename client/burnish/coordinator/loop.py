"""Runs a recipe: from a data set to the polished one and the model trained on it, as one resumable run.

    run_recipe(settings, client, out_dir)    begins a run in out_dir, or goes on with the one that is there
    resume(out_dir, client)                  goes on with the run that is in out_dir

(and `run_recipe_async`, `resume_async` for an AsyncClient on a running event loop). The settings' type says which
recipe. Any of them may be killed at any moment and called again: only what the ledger lacks is done. The methods are
written out in `recipes/*/loop.py`, what is trained after them to compare with in `afterwards.py`, how a run is opened
and closed in `session.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from burnish._channel import ClientOptions
from burnish._client import AsyncClient, Client
from burnish.coordinator.afterwards import compare_afterwards
from burnish.coordinator.progress import Observer
from burnish.coordinator.recipes.base import RecipeSettings, RunOptions
from burnish.coordinator.recipes.registry import METHODS
from burnish.coordinator.session import RunSummary, finished, opened, reopened, stopping_on_signals, summary

__all__ = [
    "RunOptions",
    "RunSummary",
    "finished",
    "resume",
    "resume_async",
    "run_recipe",
    "run_recipe_async",
]


async def run_recipe_async(
    settings: RecipeSettings,
    client: AsyncClient,
    out_dir: Path,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
    stop: asyncio.Event | None = None,
    ledger: Path | None = None,
) -> RunSummary:
    """Runs a recipe in `out_dir`, or goes on with the run that is there. Setting `stop` ends it cleanly. With `ledger`,
    the run is kept in that file, which other runs may share: what one of them paid for is known to all.

    Raises InputError (data, settings), RunMismatch (another run is there), LedgerBusy (another process works on it),
    DiskFull, StepFailed, Interrupted, and the SDK's ServiceError. After any of them but the first two the same call
    goes on where it stopped.
    """
    async with opened(settings, client, out_dir, options, observer, stop, ledger) as run:
        await METHODS[settings.RECIPE](run)
        await compare_afterwards(run)
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
    `run_recipe_async` does, and LedgerError where no run is there."""
    async with reopened(out_dir, client, options, observer, stop) as run:
        await METHODS[run.settings.RECIPE](run)
        await compare_afterwards(run)
        return summary(run)


def run_recipe(
    settings: RecipeSettings,
    client: Client,
    out_dir: Path,
    *,
    options: RunOptions | None = None,
    observer: Observer | None = None,
    ledger: Path | None = None,
) -> RunSummary:
    """`run_recipe_async` for scripts and commands. In the main thread, the first SIGINT or SIGTERM stops the run once
    the batches on the way are in (it raises Interrupted), a second one at once."""

    async def work() -> RunSummary:
        async with AsyncClient(client.endpoints, options=_wide_enough(client, options)) as own:
            with stopping_on_signals(observer) as stop:
                return await run_recipe_async(
                    settings, own, out_dir, options=options, observer=observer, stop=stop, ledger=ledger
                )

    return asyncio.run(work())


def _wide_enough(client: Client, options: RunOptions | None) -> ClientOptions:
    """The client's options, by which as many requests may be on the way as the run was told to have batches."""
    if options is None or "max_in_flight" not in options.model_fields_set:
        return client.options
    return replace(client.options, max_in_flight=max(options.max_in_flight, client.options.max_in_flight))


def resume(
    out_dir: Path, client: Client, *, options: RunOptions | None = None, observer: Observer | None = None
) -> RunSummary:
    """`resume_async` for scripts and commands; signals as in `run_recipe`."""

    async def work() -> RunSummary:
        async with AsyncClient(client.endpoints, options=_wide_enough(client, options)) as own:
            with stopping_on_signals(observer) as stop:
                return await resume_async(out_dir, own, options=options, observer=observer, stop=stop)

    return asyncio.run(work())
