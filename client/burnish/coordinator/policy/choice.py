"""Which of several models is taken, by their losses on trusted rows: of those that are better than doing nothing beyond
chance, the one that leaves out least and is within one standard error of the best. Pure.

The latter is the rule of one standard error (Breiman et al., 1984, Classification and Regression Trees, section 3.4.3),
where the simpler model is the one for which less is left out. Models are measured on the same rows, so that errors are
those of paired differences.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.contrast import Scores, contrast

LEAST_JUDGES = 2  # different trusted rows: one has no error that could be told


@dataclass(frozen=True, slots=True)
class Tried:
    """One model that could be taken. `loss` in nats per response token; `difference` from doing nothing, negative for
    better, and its standard error."""

    loss: float
    difference: float
    error: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The place of the one that is taken, and what was found of each, in order."""

    place: int
    tried: tuple[Tried, ...]


def choose(nothing: Scores, others: Sequence[Scores], errors: float) -> Choice:
    """Place 0 is doing nothing, the others follow, each leaving out as much as the one before, or more. Samples that a
    model could not score are left out for all. Better than doing nothing is by more than `errors` standard errors, >=
    0. Raises ValueError where fewer than two samples were scored by all: one has no error that could be told."""
    names = [name for name in nothing if all(name in one for one in others)]
    if len(names) < LEAST_JUDGES:
        raise ValueError(f"{len(names)} different trusted rows were scored by all models that are to be compared")
    scores = [{name: one[name] for name in names} for one in (nothing, *others)]
    found = [_tried(scores[0], one) for one in scores]
    better = [place for place in range(1, len(found)) if found[place].difference < -errors * found[place].error]
    best = min(better, key=lambda place: found[place].loss, default=0)
    as_good = (place for place in better if _as_good(scores[place], scores[best]))
    return Choice(next(as_good, best), tuple(found))


def halves(trusted: Sequence[DataRow], prompts: Mapping[str, str], seed: int) -> tuple[list[DataRow], list[DataRow]]:
    """Rows to learn from, and others to judge by, drawn by seed; those with the same prompt (`prompts`, by sample) are
    on one side. A model that learnt from a row finds those best that are like it, and what is trained on these does
    well on it: were it to judge as well, more would be left out than is good."""
    names = sorted({prompts[row.sample_hash] for row in trusted})
    judging = set(random.Random(derive_seed(seed, "judged")).sample(names, len(names) // 2))
    judged = [row for row in trusted if prompts[row.sample_hash] in judging]
    return [row for row in trusted if prompts[row.sample_hash] not in judging], judged


def _as_good(one: Scores, best: Scores) -> bool:
    """Whether a loss is within one standard error of the lowest."""
    apart = contrast(one, best)
    assert apart is not None
    assert apart.error is not None
    return apart.difference <= apart.error


def _tried(nothing: Scores, other: Scores) -> Tried:
    apart = contrast(other, nothing)
    assert apart is not None
    assert apart.error is not None
    tokens = sum(count for _, count in nothing.values())
    loss = math.fsum(nats for nats, _ in other.values()) / tokens
    return Tried(loss, apart.difference, apart.error)
