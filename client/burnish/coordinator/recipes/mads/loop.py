"""MADS-style selection on one page: from the data set as it came to a core set, and the model trained on it.

D is the data set, S the core set: samples whose active neurons together cover those of all. S is compared with what
else could have been trained on: all of D, and random subsets of the size of S. What a step does is in `steps/`, what is
decided in `policy/coverage.py`. Every step does only what the ledger lacks, so that a run may be killed at any moment
and gone on with.

The rounds of the ledger: 1 is D, 2 is S, and from 3 on the random subsets, which have models but no data set of their
own.
"""

from __future__ import annotations

from burnish.coordinator.policy.controls import draws
from burnish.coordinator.steps.arm import measure_arm, measure_draws
from burnish.coordinator.steps.assemble import assemble_kept
from burnish.coordinator.steps.cover import calibrate, compute_features, select_rows
from burnish.coordinator.steps.measure import base_model, evaluate, selector_model
from burnish.coordinator.steps.project import project
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.runs import MadsRun
from burnish.coordinator.steps.train import train

D, S, RANDOM = 1, 2, 3


async def mads(run: MadsRun) -> None:
    """Selects S, trains on it, and, where there is held-out data, on what it is to be compared with."""
    settings = run.settings
    await read(run)
    rows = run.book.rows(D)
    samples = list(dict.fromkeys(row.sample_hash for row in rows))  # duplicates count once
    # Known by its digest before anything is measured, so that it is the same when the run goes on.
    base = None if settings.select_only else await base_model(run)
    if not run.stage(D, "assemble").done:
        own = None if settings.selector else base
        selector = own or await selector_model(run, settings.selector or settings.model)
        features = settings.features()
        calibration = "" if features is None else await calibrate(run, D, selector, features, samples)
        collection = await compute_features(run, D, selector, features, calibration, samples)
        await select_rows(run, D, collection, rows, settings.size(len(samples)))
        await project(run, D, collection, samples)
        assemble_kept(run, D, rows)
    if base is None:
        return
    await evaluate(run, 0, base)
    await evaluate(run, S, await train(run, S, base))
    if not settings.holdout:
        run.observer.noted("Without --holdout there is nothing to compare by; only the core set is trained on.")
        return
    if settings.compare_full:
        await measure_arm(run, D, base)
    size = len(run.book.rows(S))
    await measure_draws(run, RANDOM, base, draws(rows, size, settings.seed, settings.random_subsets))
