"""Which of several models is taken, by their losses on trusted rows: the one with the lowest, but instead of doing
nothing only one that is better than that beyond chance. Pure.

The rule is that of one standard error (Breiman et al., 1984, Classification and Regression Trees, section 3.4.3), with
doing nothing as the simplest model: models are measured on the same rows, so that the error is that of the paired
difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Losses = Mapping[str, tuple[float, int]]  # by sample: sum of nats, response tokens


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


def choose(nothing: Losses, others: Sequence[Losses], errors: float) -> Choice:
    """Place 0 is doing nothing, the others follow. Samples that a model could not score are left out for all. Another
    is taken where its difference is beyond `errors` standard errors, >= 0. Raises ValueError where no sample was scored
    by all."""
    names = [name for name in nothing if all(name in one for one in others)]
    if not names:
        raise ValueError("no trusted row was scored by all models that are to be compared")
    found = [_tried(nothing, one, names) for one in (nothing, *others)]
    better = [place for place, one in enumerate(found) if place and one.difference < -errors * one.error]
    return Choice(min(better, key=lambda place: found[place].loss, default=0), tuple(found))


def _tried(nothing: Losses, other: Losses, names: Sequence[str]) -> Tried:
    """The difference is a ratio of two sums over rows; its error that of its linearisation."""
    tokens = sum(nothing[name][1] for name in names)
    gained = [other[name][0] - nothing[name][0] for name in names]
    difference = math.fsum(gained) / tokens
    spread = math.fsum((value - difference * nothing[name][1]) ** 2 for value, name in zip(gained, names, strict=True))
    count = len(names)
    error = math.sqrt(spread * count / (count - 1)) / tokens if count > 1 else math.inf
    return Tried(math.fsum(other[name][0] for name in names) / tokens, difference, error)
