"""How much of what noise costs an arm wins back, with bootstrap intervals over held-out rows and seeds. Pure.

    gap recovered = (noisy - arm) / (noisy - oracle),   each the mean over seeds of its loss (or score)

Of the three models of a seed the same held-out rows are drawn, and of all three the same seeds, so that what makes a
row or a seed hard for all cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000
_PERCENTILES = (2.5, 97.5)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """One model's held-out rows, shape (rows,): `values` summed over a row, and what they are summed over. Losses have
    nats and tokens, scores have scores and ones."""

    values: Floats
    sizes: Floats

    @property
    def mean(self) -> float:
        """Over all tokens, or rows."""
        return float(self.values.sum() / self.sizes.sum())


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95% interval and its standard error, and each seed's part of it, whose mean it is."""

    mean: float
    low: float
    high: float
    standard_error: float
    seeds: tuple[float, ...]


def difference(arm: Sequence[HeldOut], peer: Sequence[HeldOut]) -> Interval:
    """arm - peer; both have the same rows, seed by seed."""
    means = _means([arm, peer])
    drawn = _drawn([arm, peer])
    return _interval(means[:, 0] - means[:, 1], drawn[:, 0] - drawn[:, 1])


def recovered(
    noisy: Sequence[HeldOut], oracle: Sequence[HeldOut], arm: Sequence[HeldOut], *, higher_is_better: bool = False
) -> Interval | None:
    """The gap recovered; None where the noisy model is not worse than the oracle's by more than a standard error. A
    seed's part is told against the gap of all seeds, for its own may be next to nothing."""
    sign = -1.0 if higher_is_better else 1.0
    lost = difference(noisy, oracle)
    if sign * lost.mean <= lost.standard_error:
        return None
    means = _means([noisy, oracle, arm])
    drawn = _drawn([noisy, oracle, arm])
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (drawn[:, 0] - drawn[:, 2]) / (drawn[:, 0] - drawn[:, 1])
    return _interval((means[:, 0] - means[:, 2]) / lost.mean, shares[np.isfinite(shares)])


def _means(models: Sequence[Sequence[HeldOut]]) -> Floats:
    """Shape (seeds, models)."""
    return np.array([[one.mean for one in seed] for seed in zip(*models, strict=True)])


def _drawn(models: Sequence[Sequence[HeldOut]]) -> Floats:
    """The mean over seeds in each draw of seeds and rows, shape (draws, models); the same draws for the same sizes."""
    seeds = list(zip(*models, strict=True))
    total = np.zeros((_DRAWS, len(models)))
    for number, drawings in enumerate(_drawings(tuple(len(seed[0].values) for seed in seeds))):
        values = np.stack([one.values for one in seeds[number]], axis=1)
        sizes = np.stack([one.sizes for one in seeds[number]], axis=1)
        for draws, counts in drawings:
            total[draws] += (counts @ values) / (counts @ sizes)
    return total / len(seeds)


@lru_cache(maxsize=4)
def _drawings(rows: tuple[int, ...]) -> list[list[tuple[NDArray[np.intp], Floats]]]:
    """For each seed of so many rows, and each place in a draw of seeds: the draws that have this seed there, and how
    often they have each of its rows, shape (draws, rows)."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(rows), size=(_DRAWS, len(rows)))
    found = []
    for number, count in enumerate(rows):
        at = [np.flatnonzero(chosen[:, place] == number) for place in range(len(rows))]
        found.append([(draws, _with_repeats(rng, count, len(draws))) for draws in at])
    return found


def _with_repeats(rng: np.random.Generator, rows: int, draws: int) -> Floats:
    """How often each of `rows` rows is among as many drawn with replacement, shape (draws, rows)."""
    return rng.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(np.float64)


def _interval(seeds: Floats, drawn: Floats) -> Interval:
    low, high = np.percentile(drawn, _PERCENTILES)
    error = float(drawn.std(ddof=1))
    return Interval(float(seeds.mean()), float(low), float(high), error, tuple(map(float, seeds)))


def as_told(interval: Interval | None) -> dict[str, Any] | None:
    """For JSON."""
    if interval is None:
        return None
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "standard_error": interval.standard_error,
        "seeds": list(interval.seeds),
    }
