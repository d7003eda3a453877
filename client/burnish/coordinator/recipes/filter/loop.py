"""Filtering by one signal on one page: from the data set as it came to its best rows, and the model trained on them.

D is the data set. Every row of it gets one number, the signal: what the base model makes of it, or what models make of
it that were trained on other rows of D (cross-fitting: no row is measured by a model that saw it). S is the share of D
where it is highest, or D without its outliers; where its size is held, of that what covers it best. The base model is
trained on S, rows counting alike or by their rank, and that is compared with what else could have been done: training
on all of D, on random subsets of the size of S, and on trusted rows, where some are given, with D and alone. From these
those models learn as well that only measure; the last one does not, nor from any row with the same prompt. What a step
does is in `steps/`, what is decided in `policy/signals.py`. Every step does only what the ledger lacks, so that a run
may be killed at any moment and gone on with.

Cross-fitting may be done again with fold models that learn from what the pass before would keep (after Chen et al.,
2019, arXiv 1905.05040, iterative noisy cross-validation); the first pass may be one model of the trusted rows alone.
Where several shares are given, a model is trained on each and on all of D, and the trusted rows say which is S: D
itself, unless a share is better beyond chance (`policy/choice.py`); no model that measures rows learns from those of
them that judge. With a rival signal, the middle share is tried by both, the others by the better one. Of the largest
share may be tried as well what covers it best, as many rows as the middle one has, counting by rank. The recipe `auto`
is this one with other defaults.

The rounds of the ledger: 1 is D, whose model is only compared with, 2 is S, from 3 on fold models, ten rounds for each
pass, from 33 on the shares that were tried, all of D first, 42 the model of trusted rows alone that measures, from 43
on random subsets, from 64 on the shares that were tried by the rival, 72 what covers, 73 D and the trusted rows, 74
these alone; those from 3 on have models but no data set of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from burnish._types import ModelRef
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.choice import halves
from burnish.coordinator.policy.controls import draws
from burnish.coordinator.recipes.filter.settings import (
    MOST_FOLDS,
    MOST_PASSES,
    MOST_SHARES,
    MOST_SUBSETS,
    FilterSettings,
    Start,
)
from burnish.coordinator.steps.arm import measure_arm, measure_draws, measure_trusted
from burnish.coordinator.steps.assemble import assemble_kept, kept_rows
from burnish.coordinator.steps.choose import Part, check_judges, choose_share, does_nothing, prune_tried, taken
from burnish.coordinator.steps.crossfit import by_trusted, crossfit
from burnish.coordinator.steps.hold import cover, hold_size
from burnish.coordinator.steps.measure import base_model, evaluate, prompts_of
from burnish.coordinator.steps.rank import Measured, decide_rows, kept_by, measure, weights_of
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.runs import FilterRun
from burnish.coordinator.steps.train import steps_of, train
from burnish.coordinator.steps.validation import check_trusted, split_trusted

D, S, FOLD = 1, 2, 3
TRIED = FOLD + MOST_PASSES * MOST_FOLDS
TRUSTED = TRIED + 1 + MOST_SHARES
RANDOM = TRUSTED + 1
RIVAL = RANDOM + MOST_SUBSETS  # before the first share that is tried by it
COVERING = RIVAL + 1 + MOST_SHARES
MIXED, ALONE = COVERING + 1, COVERING + 2


async def filter_by_signal(run: FilterRun) -> None:
    """Selects S, trains on it, and, where there is held-out data, on what it is to be compared with."""
    check_trusted(run)
    await read(run)
    rows = run.book.rows(D)
    split, trusted = split_trusted(run, D, rows)
    base = await base_model(run)
    await evaluate(run, 0, base)
    if not run.stage(D, "assemble").done:
        await select(run, base, rows, split.training, trusted)
    part = taken(run, D)
    weighted = part.held is not None or (run.settings.weighted and not does_nothing(run, D))
    weights = weights_of(run, D, part.signal, run.book.rows(S)) if weighted else None
    model = await train(run, S, base, weights=weights)
    await evaluate(run, S, model)
    await compare(run, base, split.training, trusted)
    tried = range(1 + len(run.settings.tried()))
    prune_tried(run, [*(first + place for first in (TRIED, RIVAL) for place in tried), COVERING], model)


async def select(
    run: FilterRun, base: ModelRef, rows: Sequence[DataRow], training: Sequence[DataRow], trusted: Sequence[DataRow]
) -> None:
    """S: measures every row, keeps the best, and of them, where the size is held, those that cover all best."""
    learnt, judged = trusted, trusted
    if run.settings.tried() and run.settings.signal.needs_folds:
        prompts = prompts_of(run, [row.sample_hash for row in trusted])
        learnt, judged = halves(trusted, prompts, run.settings.seed)
    check_judges(run.settings, judged)
    found = await measured(run, base, training, learnt, trusted)
    best = await choose_share(run, D, partial(tried_in, run.settings), base, training, judged, found)
    decide_rows(run, D, rows, training, found, best.signal, best.share)
    kept = kept_rows(run, D, rows)
    if best.held is None:
        following = await hold_size(run, D, base, kept, draw=True)
    else:
        following = await cover(run, D, base, kept, draw=True, as_in=COVERING)
    assemble_kept(run, D, rows, following)


async def measured(
    run: FilterRun,
    base: ModelRef,
    training: Sequence[DataRow],
    learnt: Sequence[DataRow],
    trusted: Sequence[DataRow],
) -> Measured:
    """What is known of every row in the last pass: in each but the first, fold models learn from what the one before it
    would keep. Of the `trusted` rows fold models learn from those that are `learnt` alone; `calibrated`, whose eleven
    numbers no model that is judged depends on, goes by all."""
    if not run.settings.signal.needs_folds:
        return await measure(run, D, base, training, None, trusted)
    found = None
    for number in range(run.settings.passes):
        if found is None and run.settings.start is Start.TRUSTED:
            cross = await by_trusted(run, TRUSTED, base, training, learnt)
        else:
            kept = None if found is None else kept_by(run, training, found)
            cross = await crossfit(run, FOLD + number * MOST_FOLDS, base, training, learnt, kept)
        found = await measure(run, D, base, training, cross, trusted)
    assert found is not None
    return found


def tried_in(settings: FilterSettings, one: Part) -> int:
    """The round of the model that is trained on it, to see what it is worth."""
    if one.share == 1.0:
        return TRIED
    if one.held is not None:
        return COVERING
    first = RIVAL if one.signal is settings.rival else TRIED
    return first + 1 + settings.tried().index(one.share)


async def compare(run: FilterRun, base: ModelRef, training: Sequence[DataRow], trusted: Sequence[DataRow]) -> None:
    """Trains on what S is to be compared with, where there is held-out data to compare by."""
    settings = run.settings
    if not settings.holdout:
        run.observer.noted("Without --holdout there is nothing to compare by; only what was kept is trained on.")
        return
    if not settings.compare:
        return
    await measure_arm(run, D, base, training)
    if trusted:
        await measure_trusted(run, (MIXED, ALONE), base, training, trusted, steps_of(run, S))
    size = len(run.book.rows(S))
    await measure_draws(run, RANDOM, base, draws(training, size, settings.seed, settings.random_subsets))
