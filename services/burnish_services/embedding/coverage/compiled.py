"""Lazy and stochastic greedy over coverage of features, compiled, with exactly the picks and gains of the generic
ones in `greedy.py`. The loops run in pieces of some tens of milliseconds, between which there is time to give up."""

from __future__ import annotations

import numpy as np

from burnish_services.embedding.coverage import kernels
from burnish_services.embedding.coverage.arrays import Check
from burnish_services.embedding.coverage.objectives import FeatureCoverage
from burnish_services.embedding.coverage.pool import Pool, Selection

_PIECE = 1 << 14  # gains computed between checks


def lazy(objective: FeatureCoverage, pool: Pool, check: Check) -> Selection:
    """The rows of `pool` by lazy greedy, `objective` and `pool` in the state in which the generic one leaves them."""
    rows = pool.candidates
    bounds = np.empty(len(rows))
    for start in range(0, len(rows), _PIECE):
        check()
        bounds[start : start + _PIECE] = objective.gains(rows[start : start + _PIECE])
    order = np.lexsort((rows, -bounds))  # what is sorted is a heap
    rows, bounds = rows[order], bounds[order]
    picked = _blank(pool)
    size, done = len(rows), 0
    while done < pool.budget:
        check()
        size, more = kernels.pick_lazily(
            objective.state,
            bounds,
            rows,
            size,
            pool.of_row,
            pool.room,
            _PIECE,
            picked.rows[done:],
            picked.gains[done:],
        )
        done += more
    return picked


def stochastic(
    objective: FeatureCoverage, pool: Pool, sample: int, rng: np.random.Generator, check: Check
) -> Selection:
    """The rows of `pool` by stochastic greedy, looking at `sample` >= 1 rows for every pick. The generic one draws
    the same numbers."""
    remaining = pool.candidates.copy()
    picked = _blank(pool)
    step = max(1, _PIECE // sample)
    size = len(remaining)
    for start in range(0, pool.budget, step):
        check()
        stop = min(start + step, pool.budget)
        size = kernels.pick_from_samples(
            objective.state,
            remaining,
            size,
            rng.random((stop - start, sample)),
            pool.of_row,
            pool.room,
            picked.rows[start:stop],
            picked.gains[start:stop],
        )
    return picked


def _blank(pool: Pool) -> Selection:
    return Selection(np.empty(pool.budget, np.intp), np.empty(pool.budget))
