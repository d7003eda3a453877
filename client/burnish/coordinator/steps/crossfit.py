"""Cross-fitting: each part of the data scored by a model that was trained on the others, so that no sample is scored by
a model that saw it, nor one that saw its prompt."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from burnish._types import Hyperparameters, ModelRef
from burnish.coordinator.errors import DataError
from burnish.coordinator.findings import Parts
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.folds import assign_folds
from burnish.coordinator.records import ScoreRecord
from burnish.coordinator.steps.measure import prompts_of, score_in_detail
from burnish.coordinator.steps.runs import FilterRun
from burnish.coordinator.steps.train import prune, train


@dataclass(slots=True)
class CrossFit:
    """What models found that did not see a row, by its sample hash: the score under that of its `fold` (from 1; 0: the
    model of the trusted rows alone), or why there is none."""

    scores: dict[str, ScoreRecord] = field(default_factory=dict)
    fold: dict[str, int] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)


async def crossfit(
    run: FilterRun,
    first_round: int,
    base: ModelRef,
    rows: Sequence[DataRow],
    trusted: Sequence[DataRow],
    learnt: Collection[str] | None = None,
) -> CrossFit:
    """Trains a model for each fold of `rows`, on the rows of the others and on all `trusted` ones, whose prompts no row
    has, in rounds from `first_round` on, and has it score the fold. Of the other folds it learns from all rows, or from
    those whose ids are in `learnt`. Models are kept only where all are. Raises DataError where there are fewer prompts
    than folds."""
    found = CrossFit()
    for number, fold in enumerate(_folds(run, rows), start=1):
        round_number = first_round + number - 1
        inside = {row.row_id for row in fold}
        others = [row for row in rows if row.row_id not in inside and (learnt is None or row.row_id in learnt)]
        learnt_from = [*others, *trusted]
        steps = _in_proportion(run.settings.hyperparameters(round_number), len(learnt_from) / len(rows))
        model = await train(run, round_number, base, learnt_from, hyperparameters=steps)
        await _score(run, round_number, model, fold, found, number)
        prune(run, round_number)
    return found


async def by_trusted(
    run: FilterRun,
    round_number: int,
    base: ModelRef,
    rows: Sequence[DataRow],
    trusted: Sequence[DataRow],
) -> CrossFit:
    """Trains one model on the trusted rows alone, whose prompts no row has, and has it score all rows: fold 0."""
    settings = run.settings
    asked = replace(settings.hyperparameters(round_number), num_epochs=settings.trusted_epochs, max_steps=None)
    model = await train(run, round_number, base, trusted, hyperparameters=asked)
    found = CrossFit()
    await _score(run, round_number, model, rows, found, fold=0)
    prune(run, round_number)
    return found


async def _score(
    run: FilterRun,
    round_number: int,
    model: ModelRef,
    rows: Sequence[DataRow],
    found: CrossFit,
    fold: int,
) -> None:
    own = list(dict.fromkeys(row.sample_hash for row in rows))
    scores, failures = await score_in_detail(run, round_number, "score_cross", model, own, Parts.PROBABILITIES)
    found.fold |= dict.fromkeys(own, fold)
    found.scores |= scores
    found.why |= failures


def _in_proportion(given: Hyperparameters, share: float) -> Hyperparameters:
    """For as many passes as a model of all rows takes, where steps are limited: on a `share` of the rows."""
    return replace(given, max_steps=max(1, ceil(given.max_steps * share))) if given.max_steps else given


def _folds(run: FilterRun, rows: Sequence[DataRow]) -> list[list[DataRow]]:
    settings = run.settings
    prompts = prompts_of(run, [row.sample_hash for row in rows])
    try:
        return assign_folds(rows, prompts, settings.folds, settings.seed)
    except ValueError as error:
        raise DataError(
            f"The data cannot be scored by models that did not see them: {error}. Give fewer --folds, more data, or a"
            " signal that needs no fold models."
        ) from error
