"""Steps `score_pre` and `decide` of filtering by a signal: what was measured of every row, and what follows for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from burnish._types import ModelRef
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.calibrated import calibrated
from burnish.coordinator.policy.signals import (
    Features,
    Scored,
    Signal,
    among_neighbours,
    rank_rows,
    rank_weights,
    trusted_verdict,
    value_of,
    weakest_nll,
)
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.policy.verdict import STAYS, Verdict
from burnish.coordinator.records import DecisionRecord, ScoreRecord
from burnish.coordinator.steps.crossfit import CrossFit
from burnish.coordinator.steps.measure import neighbors, score_in_detail
from burnish.coordinator.steps.runs import FilterRun


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of every sample, by hash; why parts of it are missing; and the fold model, from 1, that took
    part."""

    samples: Mapping[str, Features]
    why: Mapping[str, str]
    fold: Mapping[str, int]
    near: Mapping[str, Sequence[str]]  # neighbours by prompt; none where rows are compared with all


async def measure(
    run: FilterRun,
    round_number: int,
    base: ModelRef,
    rows: Sequence[DataRow],
    cross: CrossFit | None,
    trusted: Sequence[DataRow] = (),
) -> Measured:
    """Scores all samples under the base model, and adds what the fold models found; for the signal that is calibrated
    by them, `trusted` rows as well. Raises StepFailed where these are too few, unless it is only a rival."""
    cross = cross or CrossFit()
    own = list(dict.fromkeys(row.sample_hash for row in rows))
    scores, failures = await score_in_detail(run, round_number, "score_pre", base, own, run.settings.parts())
    found = {name: _features(scores.get(name), cross.scores.get(name)) for name in own}
    if Signal.CALIBRATED in run.settings.signals():
        found = await _calibrated(run, round_number, base, found, trusted)
    k = run.settings.among
    near = await neighbors(run, round_number, base, own, k) if k else {}
    if k:
        collection = str(run.stage(round_number, "embed").detail["collection"])
        failures = {**run.book.findings.embedding_failures(own, collection), **failures}
    names = {name: [other for other, _ in others] for name, others in near.items()}
    return Measured(found, {**cross.why, **failures}, cross.fold, names)


async def _calibrated(
    run: FilterRun, round_number: int, base: ModelRef, found: Mapping[str, Features], trusted: Sequence[DataRow]
) -> dict[str, Features]:
    names = list(dict.fromkeys(row.sample_hash for row in trusted))
    scores, _ = await score_in_detail(run, round_number, "score_trusted", base, names, run.settings.parts())
    try:
        odds = calibrated(found, {name: _of_base(score) for name, score in scores.items()})
    except ValueError as error:
        if run.settings.signal is Signal.CALIBRATED:
            raise StepFailed(
                f"Rows cannot be calibrated: {error}. Give more of them (trusted), or shorter ones."
            ) from error
        return dict(found)
    return {name: replace(one, calibrated_odds=odds[name]) for name, one in found.items()}


def decide_rows(
    run: FilterRun,
    round_number: int,
    rows: Sequence[DataRow],
    training: Sequence[DataRow],
    found: Measured,
    signal: Signal,
    share: float,
) -> None:
    """One action for every row, the best `share` of them by `signal` being kept, written down once; those that are not
    in `training` have a trusted row's prompt."""
    stage = run.stage(round_number, "decide")
    if stage.done:
        return
    with stage.working():
        if run.book.decisions(round_number):
            return  # killed between the decisions and the note that the step is done
        line, ranked = rank(run, training, found, signal, share)
        verdicts = {one.row_id: one for one in ranked}
        with run.book.transaction():
            stage.expect_within(len(rows))
            run.book.add_thresholds(round_number, [line])
            run.book.add_decisions(round_number, [verdicts.get(row.row_id) or trusted_verdict(row) for row in rows])
            stage.advance(len(rows))
        if line.num_excluded:
            run.observer.noted(
                f"{line.num_excluded} of {len(training)} rows have no {line.signal} and cannot be ranked;"
                f" {run.settings.unscored} them."
            )


def kept_by(run: FilterRun, training: Sequence[DataRow], found: Measured) -> set[str]:
    """The ids of the rows that would be kept by what is known so far."""
    _, ranked = rank(run, training, found, run.settings.signal, run.settings.keep)
    return {one.row_id for one in ranked if one.actions[0] in STAYS}


def rank(
    run: FilterRun, training: Sequence[DataRow], found: Measured, signal: Signal, share: float
) -> tuple[Threshold, list[Verdict]]:
    """The line below which rows go where the best `share` of them by `signal` is kept, and a verdict for each, in
    order. Raises StepFailed where none stays: nothing can be trained on no rows."""
    settings = run.settings
    values = {name: value_of(signal, one) for name, one in found.samples.items()}
    if settings.among:
        values = among_neighbours(values, found.near)
    scored = [
        Scored(
            row.row_id,
            values[row.sample_hash],
            found.samples[row.sample_hash],
            found.why.get(row.sample_hash, ""),
            found.fold.get(row.sample_hash, 0),
        )
        for row in training
    ]
    line, verdicts = rank_rows(
        signal, scored, share, settings.seed, settings.unscored, settings.among, settings.outliers
    )
    if verdicts and not any(one.actions[0] in STAYS for one in verdicts):  # of those with a value one always stays
        why = next((f" ({one.why})" for one in scored if one.why), "")
        raise StepFailed(
            f"Not one of {len(scored)} rows has a value by signal {signal}{why}, and such rows are dropped (--unscored"
            " drop), so that no row is left. Begin a new run with --unscored keep, or with another --signal."
        )
    return line, verdicts


def weights_of(run: FilterRun, round_number: int, signal: Signal, rows: Sequence[DataRow]) -> dict[str, float]:
    """What each of `rows`, which go on, counts by its rank among them by `signal`."""
    going_on = {row.row_id for row in rows}
    return weights_by(signal, [one for one in run.book.decisions(round_number) if one.row_id in going_on])


def weights_by(signal: Signal, decided: Sequence[Verdict | DecisionRecord]) -> dict[str, float]:
    """What each row that is kept counts by its rank among them, by id."""
    kept = [one for one in decided if one.actions[0] in STAYS]
    return rank_weights({one.row_id: one.signals.get(signal.value) for one in kept})


def _features(base: ScoreRecord | None, cross: ScoreRecord | None) -> Features:
    alone = Features() if base is None else _of_base(base)
    if cross is None:
        return alone
    return replace(
        alone,
        cross_mean_nll=cross.mean_nll,
        cross_sum_nll=cross.sum_nll,
        cross_max_nll=weakest_nll(cross.min_probability),
        cross_mean_probability=cross.mean_probability,
    )


def _of_base(score: ScoreRecord) -> Features:
    return Features(
        num_tokens=score.num_tokens,
        mean_nll=score.mean_nll,
        sum_nll=score.sum_nll,
        max_nll=weakest_nll(score.min_probability),
        mean_probability=score.mean_probability,
        unconditional_nll=score.unconditional_nll,
        ifd_ratio=score.ifd,
        pmi_mean=score.pmi,
    )
