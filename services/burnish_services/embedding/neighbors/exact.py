"""Exact search: every pair is looked at. Where float32 cannot tell the candidates from the rest, a row is searched
exhaustively."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.neighbors.arrays import Doubles, Floats, Rows, blocks, chunks, ranked
from burnish_services.embedding.neighbors.best import Best, width
from burnish_services.embedding.neighbors.scores import Scores


class Pairs(NamedTuple):
    """Queries, candidates and their exact scores, each of shape (pairs,): for every query its k nearest, ties by the
    candidate's first row, and perhaps some more.

    No more are needed where candidates are groups of equal rows: the first rows of these k come before every row of
    any other group.
    """

    query: Rows
    candidate: Rows
    score: Doubles

    @classmethod
    def joined(cls, parts: Iterable[Pairs]) -> Pairs:
        """All of them."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def only(self, which: Rows | NDArray[np.bool_]) -> Pairs:
        """Those at certain places."""
        return Pairs(self.query[which], self.candidate[which], self.score[which])


# From scores to the best `width` candidates of every vector, by products in float32.
Propose = Callable[[Scores, int, Callable[[], None]], Best]


def exact_pairs(scores: Scores, k: int, propose: Propose, check: Callable[[], None]) -> Pairs:
    """The k >= 1 nearest of every vector, or all where there are fewer."""
    k = min(k, len(scores) - 1)
    if k == 0:
        return Pairs(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))
    best = propose(scores, width(k, len(scores)), check)
    return _settled(scores, np.arange(len(scores)), best, k, check)


def propose_by_tiles(scores: Scores, width: int, check: Callable[[], None]) -> Best:
    """See Propose. A tile serves its rows and its columns, so that none below the diagonal is computed."""
    best = Best(len(scores), width)
    parts = list(blocks(len(scores)))
    buffer = np.empty(parts[0].stop ** 2, np.float32)
    for index, rows in enumerate(parts):
        for columns in parts[index:]:
            check()
            shape = rows.stop - rows.start, columns.stop - columns.start
            tile = scores.tile(rows, columns, buffer[: shape[0] * shape[1]].reshape(shape))
            if rows == columns:
                np.fill_diagonal(tile, -np.inf)
            best.offer(np.arange(rows.start, rows.stop), columns.start, tile)
            if rows != columns:
                best.offer(np.arange(columns.start, columns.stop), rows.start, tile.T)
    return best


def against_all(scores: Scores, queries: Rows, k: int, check: Callable[[], None]) -> Pairs:
    """The k nearest of some vectors, 1 <= k < n, among all."""
    best = Best(len(queries), width(k, len(scores)))
    for part in blocks(len(queries)):
        some = queries[part]
        for columns in blocks(len(scores)):
            check()
            tile = scores.tile(some, columns)
            hide_themselves(tile, some, columns)
            best.offer(np.arange(part.start, part.stop), columns.start, tile)
    return _settled(scores, queries, best, k, check)


def reaching(scores: Scores, queries: Rows, best: Best, limit: Floats, check: Callable[[], None]) -> Pairs:
    """The candidates, one row of `best` for each query, that reach their row's limit in float32, scored exactly."""
    row, slot = np.nonzero(best.scores >= limit[:, None])
    query, candidate = queries[row], best.columns[row, slot]
    return Pairs(query, candidate, scores.exact(query, candidate, check))


def hide_themselves(tile: Floats, queries: Rows, columns: slice) -> None:
    """No vector is its own neighbour."""
    inside = np.flatnonzero((queries >= columns.start) & (queries < columns.stop))
    tile[inside, queries[inside] - columns.start] = -np.inf


def _settled(scores: Scores, queries: Rows, best: Best, k: int, check: Callable[[], None]) -> Pairs:
    """From the best candidates among all to the nearest."""
    ordered = -np.sort(-best.scores, axis=1)
    limit = ordered[:, k - 1] - scores.margin
    unsure = ordered[:, -1] >= limit
    if best.scores.shape[1] == len(scores) - 1:
        unsure[:] = False  # there are no others
    limit[unsure] = np.inf
    found = [reaching(scores, queries, best, limit, check)]
    found += [_exhaust(scores, some, k, check) for some in chunks(queries[unsure], len(scores))]
    return Pairs.joined(found)


def _exhaust(scores: Scores, queries: Rows, k: int, check: Callable[[], None]) -> Pairs:
    check()
    row = scores.tile(queries, slice(None))
    hide_themselves(row, queries, slice(0, len(scores)))
    kth = np.partition(row, -k, axis=1)[:, -k]
    query, candidate = np.nonzero(row >= (kth - scores.margin)[:, None])
    query = queries[query]
    exact = scores.exact(query, candidate, check)
    # Not all that tie with the k-th: among multiples of one vector these are all pairs.
    order, rank = ranked(query, exact, scores.rows[candidate])
    return Pairs(query, candidate, exact).only(order[rank < k])
