"""CLEAR on one page: from the data set as it came to the curated one, and the model trained on it.

Symbols are the paper's: Gamma is the data set of a round, c the base model's confidence in each response, gamma the
line, F the rows at or above it, M_F the base model fine-tuned on F, y' what it proposes instead of y, eta how sure
the base model must be that y' is better. What a step does is in `steps/`, what is decided in `policy/`. Every step
does only what the ledger lacks, so that a run may be killed at any moment and gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from burnish._confidence_types import ConfidenceTier
from burnish._types import ModelRef
from burnish.coordinator.findings import Parts
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.clear import Preference
from burnish.coordinator.policy.confidence import Evidence
from burnish.coordinator.policy.middo import Unparseable, quality
from burnish.coordinator.recipes.clear.settings import Proposer, Signal
from burnish.coordinator.steps.assemble import assemble_kept, kept_rows
from burnish.coordinator.steps.compare import Pair, compare
from burnish.coordinator.steps.confidence import estimate
from burnish.coordinator.steps.curate import (
    decide_rows,
    filter_round,
    pairs_of,
    passing,
    to_be_corrected,
)
from burnish.coordinator.steps.hold import hold_size
from burnish.coordinator.steps.measure import base_model, evaluate, judge, score, score_in_detail
from burnish.coordinator.steps.propose import propose
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.runs import ClearRun
from burnish.coordinator.steps.train import prune, train


async def clear(run: ClearRun) -> None:
    """All rounds, and the model trained on what they made; without the model where only a filter was asked for."""
    await read(run)
    base = await base_model(run)
    if not run.settings.filter_only:
        await evaluate(run, 0, base)
    for t in range(1, run.settings.rounds + 1):
        if not run.stage(t, "assemble").done:
            await curate(run, base, t)
        prune(run, t)
    if not run.settings.filter_only:
        last = run.settings.rounds + 1
        await evaluate(run, last, await train(run, last, base))  # from the base model again, never from M_F


async def curate(run: ClearRun, base: ModelRef, t: int) -> None:
    """One round: filter Gamma, and correct or drop what failed."""
    rows = run.book.rows(t)
    samples = list(dict.fromkeys(row.sample_hash for row in rows))  # duplicates share what is measured
    passed, signals = filter_round(run, t, rows, await measure(run, base, t, samples))  # c >= gamma

    preferences: Mapping[Pair, Preference | str] = {}
    failed = to_be_corrected(rows, passed, run.settings)
    if failed and not run.settings.filter_only:
        kept = passing(rows, passed)  # F
        proposer = base if run.settings.proposer is Proposer.BASE else await tuned(run, base, t, kept)
        await propose(run, t, proposer, failed)  # y'
        preferences = await compare(run, t, base, pairs_of(run, t, rows))  # P(y' > y), by the base model
    decide_rows(run, t, rows, passed, signals, preferences)  # against eta
    following = await hold_size(run, t, base, kept_rows(run, t, rows), draw=True)
    assemble_kept(run, t, rows, following)


async def tuned(run: ClearRun, base: ModelRef, t: int, kept: Sequence[DataRow]) -> ModelRef:
    """M_F, with its held-out loss."""
    model = await train(run, t, base, kept)
    await evaluate(run, t, model)
    return model


async def measure(run: ClearRun, base: ModelRef, t: int, samples: Sequence[str]) -> Mapping[str, Evidence]:
    """What the signal that is filtered by needs, and no more."""
    signal, tier = run.settings.signal, run.settings.tier
    if signal is Signal.LIKELIHOOD:
        losses = await score(run, t, "score_pre", base, samples)
        return {name: Evidence(mean_nll=loss) for name, loss in losses.items()}
    if signal is Signal.WEAKEST:
        scores, _ = await score_in_detail(run, t, "score_pre", base, samples, Parts.PROBABILITIES)
        return {name: Evidence(min_probability=found.min_probability) for name, found in scores.items()}
    if signal is Signal.RATING:
        ratings = await judge(run, t, base, samples, None)
        return {name: Evidence(rating=quality(found, Unparseable.EXCLUDE)) for name, found in ratings.items()}
    return await estimate(run, t, base, samples, ConfidenceTier.FAST if signal is Signal.REFLECTION else tier)
