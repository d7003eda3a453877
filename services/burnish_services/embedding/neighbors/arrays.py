"""The arrays of the neighbour search, and how long ones are walked through."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.intp]

TILE = 2048  # rows and columns of a tile: 16 MiB of float32
CHUNK = 1 << 22  # numbers of one temporary in the exact steps


def blocks(num_rows: int) -> Iterator[slice]:
    """Rows, a tile's worth at a time."""
    for start in range(0, num_rows, TILE):
        yield slice(start, min(start + TILE, num_rows))


def chunks(rows: Rows, width: int) -> Iterator[Rows]:
    """As many of `rows` at a time as fit a temporary with `width` numbers for each."""
    step = max(1, CHUNK // max(width, 1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def all_finite(vectors: Floats) -> bool:
    """No NaN, no infinity."""
    return all(bool(np.isfinite(vectors[part]).all()) for part in blocks(len(vectors)))


def ranked(query: Rows, score: Doubles, row: Rows) -> tuple[Rows, Rows]:
    """An order by query, then nearest first, then row; and each element's rank within its query, in that order."""
    order = np.lexsort((row, -score, query))
    counts = np.bincount(query)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order, rank


def nonzero(mask: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """np.nonzero, several times as fast on the sparse masks of tiles and of transposed tiles."""
    if mask.flags.c_contiguous:
        row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
        return row, column
    if mask.flags.f_contiguous:
        column, row = np.divmod(np.flatnonzero(mask.T), len(mask))
        order = np.argsort(row, kind="stable")
        return row[order], column[order]
    row, column = np.nonzero(mask)
    return row, column
