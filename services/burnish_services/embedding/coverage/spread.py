"""Selections by distance of vectors alone, without an objective: baselines for coverage.

    k_center     farthest first; measured between directions, the straight line from any row to the nearest pick is at
                 most twice as long as it has to be (Gonzalez 1985)
    repr_filter  best first, unless too near to what is kept (DEITA, arXiv 2312.15685)

Ties go to the lower row. `start` are rows selected before: they count as selected, are not in the result, and no
budget counts them. `check` is called every so often and may raise to give up. Both raise ValueError for a negative
budget, rows that are not there, and groups that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import Check, Doubles, Rows
from burnish_services.embedding.coverage.pool import Groups, Picks, Pool, Selection
from burnish_services.embedding.coverage.vectors import Block, UnitVectors

_FARTHEST = 2.0  # the largest distance that there is


def k_center(
    vectors: UnitVectors,
    budget: int,
    *,
    start: Sequence[int] | Rows = (),
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> Selection:
    """At most `budget` rows, each the farthest from those before it by cosine distance, 1 - cosine, in [0, 2].

    Rows of zeros, which have no direction, are at 1 from all others and at 0 from each other. Where `start` is empty
    the first is the nearest to the mean direction. The gains are the distances to the nearest row selected before,
    never rising; 2 for a first row. One pass over all vectors for each pick.
    """
    pool = Pool.open(vectors.num_rows, budget, start, groups)
    picks = Picks()
    if pool.budget == 0:
        return picks.selection()
    distances = np.full(vectors.num_rows, _FARTHEST)
    for _, block in vectors.blocks(pool.start):
        _bring_near(distances, vectors, block, check)
    is_candidate = np.zeros(vectors.num_rows, bool)
    is_candidate[pool.candidates] = True
    row = _farthest(distances, is_candidate) if len(pool.start) else _first(vectors, pool.candidates)
    while True:
        picks.append(row, float(distances[row]))
        if len(picks) == pool.budget:
            return picks.selection()
        pool.take(row)
        is_candidate[row] = False
        if not pool.is_open(row):
            is_candidate &= pool.of_row != pool.of_row[row]
        _bring_near(distances, vectors, vectors.block(np.array([row])), check)
        row = _farthest(distances, is_candidate)


def repr_filter(
    vectors: UnitVectors,
    quality: Doubles,
    budget: int,
    *,
    most: float = 0.9,
    start: Sequence[int] | Rows = (),
    groups: Groups | None = None,
    check: Check = lambda: None,
) -> Selection:
    """At most `budget` rows by descending quality, each kept unless its cosine with a row kept before is above
    `most`.

    `quality` is any finite number per row, shape (n,); the gains are the picked rows' qualities. Raises ValueError
    for another shape and for numbers that are not finite.
    """
    if quality.shape != (vectors.num_rows,) or not np.isfinite(quality).all():
        raise ValueError(f"expected {vectors.num_rows} finite qualities, got {quality.shape}, or NaN, or infinity")
    pool = Pool.open(vectors.num_rows, budget, start, groups)
    order = pool.candidates[np.argsort(-quality[pool.candidates], kind="stable")]
    picks = Picks()
    if pool.budget == 0:
        return picks.selection()
    for part, block in vectors.blocks(order):
        check()
        is_near = np.zeros(len(order[part]), bool)
        for _, kept in vectors.blocks(np.concatenate([pool.start, np.array(picks.rows, np.intp)])):
            check()
            is_near |= (block.cosines(kept) > most).any(axis=1)
        among_themselves = block.cosines(block)
        for place, row in enumerate(order[part].tolist()):
            if is_near[place] or not pool.is_open(row):
                continue
            picks.append(row, float(quality[row]))
            if len(picks) == pool.budget:
                return picks.selection()
            pool.take(row)
            is_near |= among_themselves[place] > most
    return picks.selection()


def _first(vectors: UnitVectors, candidates: Rows) -> int:
    mean = vectors.mean_direction()
    cosines = np.concatenate([mean.cosines(block)[0] for _, block in vectors.blocks(candidates)])
    return int(candidates[np.argmax(cosines)])


def _farthest(distances: Doubles, is_candidate: NDArray[np.bool_]) -> int:
    return int(np.argmax(np.where(is_candidate, distances, -1.0)))


def _bring_near(distances: Doubles, vectors: UnitVectors, selected: Block, check: Check) -> None:
    """Lowers the distances of all rows to those from the selected ones, where they are nearer."""
    for part, block in vectors.blocks():
        check()
        nearest = selected.cosines(block).max(axis=0)
        np.minimum(distances[part], 1 - nearest, out=distances[part])
        if selected.is_zero.any():  # copies, though their cosine is 0
            distances[part][block.is_zero] = 0
