"""What an order of rows covers as it goes on, and what random orders do: how far the choice is better than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import Check, Doubles, Rows
from burnish_services.embedding.coverage.objectives import FeatureCoverage
from burnish_services.embedding.coverage.pool import Groups, Pool

_POINTS = 100  # prefixes that are looked at, besides the empty one


@dataclass(frozen=True, slots=True, eq=False)
class CoverageCurve:
    """Of each prefix of an order: its size, the objective F, and how many different features are covered."""

    sizes: Rows
    values: Doubles
    covered: NDArray[np.int64]


def coverage_curve(objective: FeatureCoverage, order: Rows, *, check: Check = lambda: None) -> CoverageCurve:
    """The curve of `order`, rows that are not selected yet, at about a hundred of its prefixes, evenly spaced from the
    empty one to all.

    What `objective` has selected already counts; it is left as it is. `check` is called at every size and may raise
    to give up.
    """
    points = np.unique(np.linspace(0, len(order), _POINTS + 1).astype(np.intp))
    state = objective.copy()
    values, covered = np.empty(len(points)), np.empty(len(points), np.int64)
    done = 0
    for place, size in enumerate(points.tolist()):
        check()
        for row in order[done:size].tolist():
            state.add(row)
        done = size
        values[place], covered[place] = state.value, state.num_covered
    return CoverageCurve(points, values, covered)


def random_curves(
    objective: FeatureCoverage,
    num_picks: int,
    *,
    num_orders: int = 3,
    seed: int = 0,
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> list[CoverageCurve]:
    """The curves of `num_orders` random choices of `num_picks` rows that are not selected yet, of each group no more
    than its budget; else as `coverage_curve`. Raises ValueError where there are fewer rows, or less room."""
    rng = np.random.default_rng(seed)
    pool = Pool.open(objective.num_rows, num_picks, np.flatnonzero(objective.state.selected), groups)
    if pool.budget < num_picks:
        raise ValueError(f"{num_picks} rows are wanted, there are {pool.budget} to choose")
    orders = [_random_order(pool, rng) for _ in range(num_orders)]
    return [coverage_curve(objective, order, check=check) for order in orders]


def _random_order(pool: Pool, rng: np.random.Generator) -> Rows:
    """As many rows as the budget says, each drawn from those whose groups have room."""
    if len(pool.room) == 1:
        return rng.choice(pool.candidates, pool.budget, replace=False)
    fresh, order = pool.only(pool.candidates, pool.budget), list[int]()
    for row in rng.permutation(pool.candidates).tolist():
        if len(order) < pool.budget and fresh.is_open(row):
            order.append(row)
            fresh.take(row)
    return np.array(order, np.intp)
