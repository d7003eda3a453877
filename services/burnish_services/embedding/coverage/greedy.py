"""Greedy maximisation of a monotone submodular objective: rows one by one, each the one that adds most.

    naive       looks at every row for every pick; the reference. (1 - 1/e) of the optimum (Nemhauser et al. 1978)
    lazy        the same picks, looking only at rows that may be the best (Minoux 1978)
    stochastic  looks at a few random rows for every pick; (1 - 1/e - ε) in expectation (Mirzasoleiman et al. 2015)
    partition   lazy on shards, side by side, then lazy on the shards' picks (Mirzasoleiman et al. 2013)

With groups the guarantee of the first two is 1/2 (Fisher et al. 1978). Ties go to the lower row. Nothing depends on
timing or on the number of threads.

All take a fresh objective, which ends up with the picks selected. `start` are rows selected before: they are added
to the objective, are neither picked nor in the result, and no budget counts them. Picking goes on at gain zero,
until the budget is spent or no group has room. `check` is called every so often and may raise to give up. Raise
ValueError for a negative budget, rows that are not there, and groups that do not fit.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import numpy as np

from burnish_services.embedding.coverage import compiled
from burnish_services.embedding.coverage.arrays import Check, Doubles, Rows
from burnish_services.embedding.coverage.objectives import FeatureCoverage, Objective
from burnish_services.embedding.coverage.pool import Groups, Picks, Pool, Selection

_PIECE = 256  # rows whose gains are asked for at once
_POLL = 0.05  # seconds between looks at the threads


def naive(
    objective: Objective,
    budget: int,
    *,
    start: Sequence[int] | Rows = (),
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> Selection:
    """Computes every candidate's gain for every pick: O(n · budget) gains."""
    pool = _begin(objective, budget, start, groups)
    picks = Picks()
    remaining = pool.candidates
    while len(picks) < pool.budget:
        gains = _all_gains(objective, remaining, check)
        best = int(np.argmax(gains))  # the first of the largest, and so the lowest row
        row = int(remaining[best])
        objective.add(row)
        pool.take(row)
        picks.append(row, float(gains[best]))
        remaining = pool.still_open(np.delete(remaining, best))
    return picks.selection()


def lazy(
    objective: Objective,
    budget: int,
    *,
    start: Sequence[int] | Rows = (),
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> Selection:
    """Exactly what `naive` picks. As gains never rise, what a row was worth earlier bounds what it is worth now, and
    the row with the largest bound is the best where its gain, computed anew, still is the largest."""
    return _lazy(objective, _begin(objective, budget, start, groups), check)


def stochastic(
    objective: Objective,
    budget: int,
    *,
    epsilon: float = 0.05,
    seed: int = 0,
    start: Sequence[int] | Rows = (),
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> Selection:
    """For every pick the best of ⌈(n / budget) ln(1 / epsilon)⌉ random candidates, n of them in all: O(n) gains.

    `epsilon` in (0, 1): the smaller, the closer to `naive`, which it is where all candidates are looked at.
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}, expected more than 0 and less than 1")
    pool = _begin(objective, budget, start, groups)
    if pool.budget == 0:
        return Picks().selection()
    sample = math.ceil(len(pool.candidates) / pool.budget * math.log(1 / epsilon))
    sample = min(max(sample, 1), len(pool.candidates))
    rng = np.random.default_rng(seed)
    if isinstance(objective, FeatureCoverage):
        return compiled.stochastic(objective, pool, sample, rng, check)
    return _stochastic(objective, pool, sample, rng, check)


def partition(
    objective: Objective,
    budget: int,
    *,
    shards: int,
    seed: int = 0,
    start: Sequence[int] | Rows = (),
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> Selection:
    """Lazy greedy for the whole budget on each of `shards` >= 1 random parts of the candidates, in threads, then lazy
    greedy on all that they picked. Each shard has a copy of the objective."""
    if shards < 1:
        raise ValueError(f"there are {shards} shards, expected at least 1")
    pool = _begin(objective, budget, start, groups)
    shuffled = np.random.default_rng(seed).permutation(pool.candidates)
    parts = [pool.only(np.sort(part), budget) for part in np.array_split(shuffled, shards)]
    given_up = Event()

    def check_in_thread() -> None:
        # `check` itself is called by this thread alone, for it need not be made for several.
        if given_up.is_set():
            raise InterruptedError("another thread gave up")

    def winners(part: Pool) -> Rows:
        return _lazy(objective.copy(), part, check_in_thread).rows

    with ThreadPoolExecutor(min(shards, os.cpu_count() or 1)) as threads:
        futures = [threads.submit(winners, part) for part in parts]
        try:
            while wait(futures, timeout=_POLL).not_done:
                check()
        except BaseException:
            given_up.set()
            raise
    finalists = np.sort(np.concatenate([future.result() for future in futures]))
    return _lazy(objective, pool.only(finalists, budget), check)


def _begin(objective: Objective, budget: int, start: Sequence[int] | Rows, groups: Groups | None) -> Pool:
    pool = Pool.open(objective.num_rows, budget, start, groups)
    for row in pool.start.tolist():
        objective.add(row)
    return pool


def _lazy(objective: Objective, pool: Pool, check: Check) -> Selection:
    if isinstance(objective, FeatureCoverage):
        return compiled.lazy(objective, pool, check)
    bounds = _all_gains(objective, pool.candidates, check)
    heap = list(zip((-bounds).tolist(), pool.candidates.tolist(), strict=True))
    heapq.heapify(heap)
    picks = Picks()
    while len(picks) < pool.budget:
        check()
        row = heap[0][1]
        if not pool.is_open(row):
            heapq.heappop(heap)
            continue
        gain = float(objective.gains(np.array([row]))[0])
        heapq.heapreplace(heap, (-gain, row))
        if heap[0][1] == row:
            heapq.heappop(heap)
            objective.add(row)
            pool.take(row)
            picks.append(row, gain)
    return picks.selection()


def _stochastic(objective: Objective, pool: Pool, sample: int, rng: np.random.Generator, check: Check) -> Selection:
    remaining = pool.candidates.copy()
    picks = Picks()
    while len(picks) < pool.budget:
        num = _shuffle_head(remaining, rng.random(sample))
        gains = _all_gains(objective, remaining[:num], check)
        best = int(np.lexsort((remaining[:num], -gains))[0])
        row = int(remaining[best])
        objective.add(row)
        pool.take(row)
        picks.append(row, float(gains[best]))
        remaining[best] = remaining[-1]
        remaining = remaining[:-1]
        if not pool.is_open(row):
            remaining = pool.still_open(remaining)
    return picks.selection()


def _shuffle_head(rows: Rows, draws: Doubles) -> int:
    """Brings as many random rows to the front as there are `draws`, uniform in [0, 1): the beginning of a
    Fisher-Yates shuffle. Returns how many; where there are no more, it is all of them, as they stand."""
    size = len(rows)
    if len(draws) >= size:
        return size
    for place, draw in enumerate(draws.tolist()):
        drawn = place + int(draw * (size - place))
        rows[[place, drawn]] = rows[[drawn, place]]
    return len(draws)


def _all_gains(objective: Objective, rows: Rows, check: Check) -> Doubles:
    gains = np.empty(len(rows))
    for start in range(0, len(rows), _PIECE):
        check()
        gains[start : start + _PIECE] = objective.gains(rows[start : start + _PIECE])
    return gains
