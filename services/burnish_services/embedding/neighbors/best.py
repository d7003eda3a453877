"""The best few candidates of each row, kept while tiles of scores go by."""

from __future__ import annotations

import numpy as np

from burnish_services.embedding.neighbors.arrays import Floats, Rows, nonzero

SPARE = 8  # candidates kept beyond k, so that float32 rounding seldom decides
HEAD = 256  # columns that are looked at first where a row has no candidates yet
DENSE = 1 / 16  # share of a tile beyond which its elements are not listed one by one


class Best:
    """The best few columns of each row so far, unordered; -1 with a score of minus infinity where there are fewer."""

    def __init__(self, num_rows: int, width: int) -> None:
        self.scores = np.full((num_rows, width), -np.inf, np.float32)
        self.columns = np.full((num_rows, width), -1, np.intp)

    def offer(self, rows: Rows, left: int, tile: Floats) -> None:
        """Takes in the scores of different `rows` with the columns from `left` on, which these rows have not had."""
        lowest = self.scores[rows].min(axis=1)
        better = tile > lowest[:, None]
        if np.count_nonzero(better) <= DENSE * better.size:
            self._merge_some(rows, left, tile, *nonzero(better))
        elif tile.shape[1] > HEAD:
            # Nothing is known of these rows yet: the best of a few columns will sort out most of the others.
            self.offer(rows, left, tile[:, :HEAD])
            self.offer(rows, left + HEAD, tile[:, HEAD:])
        else:
            self._merge(rows, tile, np.broadcast_to(left + np.arange(tile.shape[1]), tile.shape))

    def _merge_some(self, rows: Rows, left: int, tile: Floats, row: Rows, column: Rows) -> None:
        """Merges the tile's elements at (row, column), which are in order of row."""
        if len(row) == 0:
            return
        counts = np.bincount(row, minlength=len(tile))
        rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        place = np.cumsum(counts > 0)[row] - 1
        scores = np.full((np.count_nonzero(counts), counts.max()), -np.inf, np.float32)
        columns = np.full(scores.shape, -1, np.intp)
        scores[place, rank] = tile[row, column]
        columns[place, rank] = left + column
        self._merge(rows[counts > 0], scores, columns)

    def _merge(self, rows: Rows, scores: Floats, columns: Rows) -> None:
        width = self.scores.shape[1]
        scores = np.concatenate([self.scores[rows], scores], axis=1)
        columns = np.concatenate([self.columns[rows], columns], axis=1)
        keep = np.argpartition(scores, -width, axis=1)[:, -width:]
        self.scores[rows] = np.take_along_axis(scores, keep, axis=1)
        self.columns[rows] = np.take_along_axis(columns, keep, axis=1)


def width(k: int, num_rows: int) -> int:
    """Candidates to keep of each of `num_rows` rows for its k nearest others."""
    return min(k + SPARE, num_rows - 1)
