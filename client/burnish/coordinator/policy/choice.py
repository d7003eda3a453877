"""Which of several models is taken, by their losses on trusted rows: the one with the lowest, but instead of doing
nothing only one that is better than that beyond chance. Pure.

The rule is that of one standard error (Breiman et al., 1984, Classification and Regression Trees, section 3.4.3), with
doing nothing as the simplest model: models are measured on the same rows, so that the error is that of the paired
difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.coordinator.policy.contrast import Scores, contrast


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
    """Place 0 is doing nothing, the others follow. Samples that a model could not score are left out for all. Another
    is taken where its difference is beyond `errors` standard errors, >= 0. Raises ValueError where fewer than two
    samples were scored by all: one has no error that could be told."""
    names = [name for name in nothing if all(name in one for one in others)]
    if len(names) < 2:
        raise ValueError(f"{len(names)} different trusted rows were scored by all models that are to be compared")
    first, *rest = ({name: one[name] for name in names} for one in (nothing, *others))
    found = [_tried(first, one) for one in (first, *rest)]
    better = [place for place, one in enumerate(found) if place and one.difference < -errors * one.error]
    return Choice(min(better, key=lambda place: found[place].loss, default=0), tuple(found))


def _tried(nothing: Scores, other: Scores) -> Tried:
    apart = contrast(other, nothing)
    assert apart is not None
    assert apart.error is not None
    tokens = sum(count for _, count in nothing.values())
    loss = math.fsum(nats for nats, _ in other.values()) / tokens
    return Tried(loss, apart.difference, apart.error)
