"""Two models on the same held-out samples: how far apart their losses are, and how sure that is. Pure."""

from __future__ import annotations

import numpy as np

from burnish.report.short_data import Contrast, Scores


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
