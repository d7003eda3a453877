"""φ: what it is worth that c selected samples have a feature. Concave and rising from φ(0) = 0, so that a feature is
worth most the first time, and coverage is monotone submodular."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from burnish_services.embedding.coverage.arrays import Doubles, Rows


class Increment(Protocol):
    """A φ."""

    def values(self, counts: Rows) -> Doubles:
        """φ(c) of each count c >= 0."""
        ...

    def steps(self, num: int) -> Doubles:
        """φ(c + 1) - φ(c) for c = 0 … num - 1: not negative, and never rising, in floating point either."""
        ...


@dataclass(frozen=True, slots=True)
class LogCount:
    """log(1 + c): every repetition still counts, each less than the one before. Does not saturate."""

    def values(self, counts: Rows) -> Doubles:
        """log(1 + c)."""
        return np.log1p(counts, dtype=np.float64)

    def steps(self, num: int) -> Doubles:
        """log((c + 2) / (c + 1)), without cancellation."""
        steps = np.log1p(1 / np.arange(1, num + 1, dtype=np.float64))
        # No libm promises that log1p is monotone to the last bit.
        return np.minimum.accumulate(steps)


@dataclass(frozen=True, slots=True)
class CappedCount:
    """min(c, most): the first `most` >= 1 repetitions count alike, later ones not at all. 1 is maximum coverage."""

    most: int = 1

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most is {self.most}, expected at least 1")

    def values(self, counts: Rows) -> Doubles:
        """min(c, most)."""
        return np.minimum(counts, self.most).astype(np.float64)

    def steps(self, num: int) -> Doubles:
        """1 below `most`, 0 from there on."""
        return (np.arange(num) < self.most).astype(np.float64)


@dataclass(frozen=True, slots=True)
class DecayingCount:
    """1 - decay^c, with `decay` in (0, 1): every repetition counts `decay` times the one before."""

    decay: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise ValueError(f"decay is {self.decay}, expected more than 0 and less than 1")

    def values(self, counts: Rows) -> Doubles:
        """1 - decay^c."""
        return 1 - self.decay ** np.asarray(counts, np.float64)

    def steps(self, num: int) -> Doubles:
        """(1 - decay) decay^c."""
        return np.minimum.accumulate((1 - self.decay) * self.decay ** np.arange(num, dtype=np.float64))
