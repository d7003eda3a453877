"""How much of what noise costs an arm wins back, with an interval over seeds. Pure.

    gap recovered = (noisy - arm) / (noisy - oracle),   each the mean over seeds of its loss (or score)

Its interval is Fieller's (1954, Some problems in interval estimation, JRSS B 16(2)), of a ratio of two means that are
measured together: all shares r for which the mean over seeds of

    (noisy - arm) - r (noisy - oracle)

does not differ from 0 by Student's t. Each seed has rows of its own, to train on and to judge by, so that both draws
are in how seeds differ. A bootstrap would be too sure: of three seeds, its intervals of 95% hold three truths in four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

CONFIDENCE = 0.95
SEEDS = 3  # with fewer there is no interval, and nothing is said to be better or worse


@dataclass(frozen=True)
class Interval:
    """A share of the gap, 0 for doing nothing and 1 for the oracle, with its ends; None where there are fewer than
    `SEEDS`, or they differ so much that they bound it on no side: then that noise costs anything is not shown."""

    mean: float
    low: float | None
    high: float | None


def recovered(
    noisy: Sequence[float], oracle: Sequence[float], arm: Sequence[float], *, higher_is_better: bool = False
) -> Interval | None:
    """Of the mean losses (or scores) of models, by seed, of at least one. None where the noisy model is not worse than
    the oracle's by more than a standard error: there is no gap of which a share could be told."""
    sign = -1.0 if higher_is_better else 1.0
    won = sign * (np.asarray(noisy, dtype=float) - np.asarray(arm, dtype=float))
    lost = sign * (np.asarray(noisy, dtype=float) - np.asarray(oracle, dtype=float))
    seeds = len(lost)
    if seeds == 1:
        return Interval(float(won[0] / lost[0]), None, None) if lost[0] > 0 else None
    if lost.mean() <= lost.std(ddof=1) / math.sqrt(seeds):
        return None
    reach = float(student.ppf((1 + CONFIDENCE) / 2, seeds - 1)) ** 2 / seeds
    (var_won, both), (_, var_lost) = reach * np.cov(won, lost)
    # The roots of curve · r² - 2 middle · r + rest = 0; where it is no bowl, nothing bounds r.
    curve, middle, rest = lost.mean() ** 2 - var_lost, won.mean() * lost.mean() - both, won.mean() ** 2 - var_won
    mean = float(won.mean() / lost.mean())
    if curve <= 0 or seeds < SEEDS:
        return Interval(mean, None, None)
    half = math.sqrt(max(0.0, middle**2 - curve * rest))
    return Interval(mean, float((middle - half) / curve), float((middle + half) / curve))


def as_told(interval: Interval | None) -> dict[str, Any] | None:
    """For JSON."""
    return None if interval is None else {"mean": interval.mean, "low": interval.low, "high": interval.high}
