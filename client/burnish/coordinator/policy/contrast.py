"""Two models on the same samples: how far apart their losses are, and how sure that is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Scores = Mapping[str, tuple[float, int]]  # by sample: nats summed over response tokens, and their number


@dataclass(frozen=True, slots=True)
class Contrast:
    """How far one model's loss is above another's, nats per response token, with the standard error of that
    over the samples; None for fewer than two."""

    difference: float
    error: float | None

    @property
    def told(self) -> bool:
        """Whether it is more than one standard error from nothing."""
        return self.error is not None and abs(self.difference) > self.error


def contrast(one: Scores, other: Scores) -> Contrast | None:
    """The loss of `one` above that of `other`, over the samples that both have; None where there is none.

    Losses are over tokens, so the difference is a ratio of sums over samples: D = sum d / sum n with d the difference
    of a sample's summed loss and n its tokens. Its standard error is that of the linearised ratio, samples being what
    is drawn: sqrt(k / (k - 1) * sum (d - D n)^2) / sum n.
    """
    both = [name for name in one if name in other]
    if not both:
        return None
    differences = np.array([one[name][0] - other[name][0] for name in both])
    tokens = np.array([one[name][1] for name in both], dtype=float)
    mean = float(differences.sum() / tokens.sum())
    count = len(both)
    if count < 2:
        return Contrast(mean, None)
    spread = float(((differences - mean * tokens) ** 2).sum())
    return Contrast(mean, (count / (count - 1) * spread) ** 0.5 / float(tokens.sum()))
