"""Axes: where a value lies in a picture, and which round values are written beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """From [low, high] to pixels [start, end]; `log`: by the logarithm, for values above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel; what is outside lies at the edge."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        share = (at - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether it is not outside."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside, about so many."""
        if self.log:
            return self._log_ticks(most)
        step = _round_up((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        fewer = [[n * 10.0**d for d in decades for n in steps] for steps in ((1, 2, 5), (1, 3), (1,))]
        inside = [[value for value in one if self.holds(value)] for one in fewer]
        return next((one for one in inside if len(one) <= most + 1), inside[-1])


def around(values: Sequence[float], start: float, end: float, *, room: float = 0.06) -> Scale:
    """A scale that holds all values, of which there is at least one, with some room at both ends."""
    low, high = min(values), max(values)
    spare = (high - low) * room if high > low else abs(high) * 0.1 or 0.5
    return Scale(low - spare, high + spare, start, end)


def _round_up(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1.0, 2.0, 5.0, 10.0) if n * power >= step * (1 - 1e-9))
