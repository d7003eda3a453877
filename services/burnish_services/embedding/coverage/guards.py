"""Two ways in which coverage goes wrong unnoticed: it picks by length, or a few hub neurons decide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import Rows

_HUBS = 100  # one feature in so many is looked at as a hub


def length_rank_correlation(lengths: NDArray[np.generic], order: Rows) -> float | None:
    """Spearman's correlation, in [-1, 1], of the picked rows' lengths with their rank of picking.

    `lengths` is of all rows, shape (n,), `order` the picked rows, first picked first. Near -1 the longest were picked
    first. None where it is undefined: fewer than two picks, or all of the same length.
    """
    from scipy.stats import rankdata  # most of a second, which only a server that selects need spend

    picked = rankdata(np.asarray(lengths)[order])  # equal ones share the mean of their ranks
    if len(picked) < 2 or (picked == picked[0]).all():
        return None
    return float(np.clip(np.corrcoef(picked, np.arange(len(picked)))[0, 1], -1.0, 1.0))


def hub_share(frequencies: Rows) -> float:
    """The share of all active ids that belongs to the most frequent 1% of features (rounded up), in [0, 1]; 0 without
    ids. `frequencies` are the rows that have each feature, shape (D,).

    Above 0.1 a few neurons stand out everywhere and crowd the others out: standardise the activations.
    """
    total = int(frequencies.sum())
    hubs = -(-len(frequencies) // _HUBS)
    return float(np.sort(frequencies)[::-1][:hubs].sum() / total) if total else 0.0
