"""Exact nearest neighbours, blockwise: no n × n matrix is ever held. Pure numpy, no store, no server.

Three steps. Equal vectors are folded into groups, for exact duplicates are common in instruction data and must come
out at exactly 1. Tiles of float32 products propose, per group, a few more candidates than are wanted; only half of
the matrix is computed, each tile serving its rows and its columns. The candidates are then scored again in float64,
by a sum whose order does not depend on where a vector stands, so that equal vectors tie exactly and ties go to the
lower row. Where float32 cannot tell the candidates from the rest, that row is searched exhaustively.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.intp]

_TILE = 2048  # rows and columns of a tile: 16 MiB of float32
_SPARE = 8  # candidates kept beyond k, so that float32 rounding seldom decides
_HEAD = 256  # columns that are looked at first where a row has no candidates yet
_DENSE = 1 / 16  # share of a tile beyond which its elements are not listed one by one
_CHUNK = 1 << 22  # numbers of one temporary in the exact steps


class Metric(StrEnum):
    """What makes rows near."""

    COSINE = "cosine"  # the larger, the nearer
    EUCLIDEAN = "euclidean"  # distance: the smaller, the nearer


@dataclass(frozen=True, slots=True, eq=False)
class NearestNeighbors:
    """For each of n rows its w nearest other rows, nearest first, ties by the lower row; w is k, or as many as there
    are: n - 1, or one less than the distinct vectors where duplicates are left out."""

    indices: Rows  # (n, w)
    values: Doubles  # the same shape: cosines in [-1, 1], or distances >= 0

    @property
    def means(self) -> Doubles:
        """Mean over each row's neighbours, shape (n,); 0 where there are none."""
        width = self.values.shape[1]
        return self.values.sum(axis=1) / max(width, 1)


def nearest_neighbors(
    vectors: Floats,
    k: int,
    *,
    metric: Metric = Metric.COSINE,
    distinct: bool = False,
    check: Callable[[], None] = lambda: None,
) -> NearestNeighbors:
    """The k >= 1 nearest neighbours of every row of `vectors` (float32, shape (n, d), finite), itself excluded.

    Equal rows have cosine 1 and distance 0; a row of zeros has cosine 0 with everything. With `distinct`, exact
    duplicates are left out: copies of the row itself are no neighbours, and of other rows' copies the lowest alone is.
    The result depends on nothing but the vectors and their order. Needs about the memory of `vectors` once more and a
    few dozen MiB. `check` is called between tiles and may raise to give up. Raises ValueError for other input.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"expected a float32 matrix, got {vectors.dtype} of shape {vectors.shape}")
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")
    if not _all_finite(vectors):
        raise ValueError("expected finite vectors, found NaN or infinity")
    if len(vectors) == 0:
        return NearestNeighbors(np.empty((0, 0), np.intp), np.empty((0, 0)))
    groups = _Groups.of(vectors)
    search = _SEARCHES[metric](vectors, groups.representatives, k, check)
    found = search.pairs()
    if distinct:
        indices, scores = _nearest_groups(groups, *found, k)
    else:
        indices, scores = _expand(groups, *found, k, with_itself=search.with_itself())
    return NearestNeighbors(indices, search.values_of(scores))


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Rows folded by equal content. Group g holds `members[starts[g]:starts[g + 1]]`, in order of row."""

    of_row: Rows  # (n,)
    members: Rows  # (n,)
    starts: Rows  # (groups + 1,)

    @classmethod
    def of(cls, vectors: Floats) -> _Groups:
        seen: dict[bytes, int] = {}
        of_row = np.empty(len(vectors), np.intp)
        for index, row in enumerate(vectors):
            # Adding zero turns -0.0 into 0.0, which are equal numbers with different bytes.
            of_row[index] = seen.setdefault(blake2b((row + np.float32(0)).data, digest_size=16).digest(), len(seen))
        members = np.argsort(of_row, kind="stable")
        starts = np.searchsorted(of_row[members], np.arange(len(seen) + 1))
        return cls(of_row, members, starts)

    @property
    def sizes(self) -> Rows:
        return np.diff(self.starts)

    @property
    def representatives(self) -> Rows:
        """The first row of each group."""
        return self.members[self.starts[:-1]]


class _Search(ABC):
    """Neighbours among distinct vectors. A score is the larger, the nearer."""

    # Two scores that differ by more in float32 differ in truth.
    _margin: np.float32

    def __init__(self, vectors: Floats, rows: Rows, k: int, check: Callable[[], None]) -> None:
        self._vectors = vectors
        self._rows = rows
        self._check = check
        self._k = min(k, len(rows) - 1)
        self._width = min(k + _SPARE, len(rows) - 1)
        self._norms = _lengths(vectors, rows)

    @abstractmethod
    def with_itself(self) -> Doubles:
        """The exact score of each vector with a copy of it."""

    @abstractmethod
    def values_of(self, scores: Doubles) -> Doubles:
        """Cosines or distances, from exact scores."""

    @abstractmethod
    def _tile(self, rows: slice | Rows, columns: slice, out: Floats | None = None) -> Floats:
        """Scores of some vectors with others, float32."""

    @abstractmethod
    def _exact(self, query: Rows, candidate: Rows) -> Doubles:
        """Scores of pairs, float64, each by a sum whose order depends on nothing but the vectors' length."""

    def pairs(self) -> tuple[Rows, Rows, Doubles]:
        """(query, candidate, score) over positions in `rows`: for every query all that may be among its k nearest."""
        if self._k == 0:
            return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
        best = self._propose()
        score = -np.sort(-best.scores, axis=1)
        limit = score[:, self._k - 1] - self._margin
        complete = len(self._rows) - 1 == self._width
        unsure = np.zeros(len(limit), bool) if complete else score[:, -1] >= limit
        query, slot = np.nonzero((best.scores >= limit[:, None]) & ~unsure[:, None])
        found = [self._scored(query, best.columns[query, slot])]
        found += [self._exhaust(some) for some in self._chunks(np.flatnonzero(unsure), len(self._rows))]
        query, candidate, exact = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return query, candidate, exact

    def _propose(self) -> _Best:
        """The `width` best candidates of each vector by float32 products, over the tiles on and above the diagonal."""
        best = _Best(len(self._rows), self._width)
        starts = range(0, len(self._rows), _TILE)
        buffer = np.empty((_TILE, _TILE), np.float32)
        for top in starts:
            rows = slice(top, min(top + _TILE, len(self._rows)))
            for left in range(top, len(self._rows), _TILE):
                self._check()
                columns = slice(left, min(left + _TILE, len(self._rows)))
                shape = rows.stop - rows.start, columns.stop - columns.start
                tile = self._tile(rows, columns, buffer.ravel()[: shape[0] * shape[1]].reshape(shape))
                if left == top:
                    np.fill_diagonal(tile, -np.inf)
                    best.offer(top, left, tile)
                else:
                    best.offer(top, left, tile)
                    best.offer(left, top, tile.T)
        return best

    def _exhaust(self, queries: Rows) -> tuple[Rows, Rows, Doubles]:
        self._check()
        scores = self._tile(queries, slice(None))
        scores[np.arange(len(queries)), queries] = -np.inf
        kth = np.partition(scores, -self._k, axis=1)[:, -self._k]
        query, candidate = np.nonzero(scores >= (kth - self._margin)[:, None])
        query, candidate, exact = self._scored(queries[query], candidate)
        order, rank = _ranked(query, exact, candidate)
        # Ties with the k-th stay, for a tie between groups is decided by their members.
        kth_exact = np.full(len(self._rows), -np.inf)
        last = order[rank == self._k - 1]
        kth_exact[query[last]] = exact[last]
        keep = exact >= kth_exact[query]
        return query[keep], candidate[keep], exact[keep]

    def _scored(self, query: Rows, candidate: Rows) -> tuple[Rows, Rows, Doubles]:
        """Adds the exact scores."""
        exact = np.empty(len(query))
        done = 0
        for some in self._chunks(np.arange(len(query)), self._vectors.shape[1]):
            self._check()
            exact[done : done + len(some)] = self._exact(query[some], candidate[some])
            done += len(some)
        return query, candidate, exact

    def _of(self, positions: Rows) -> Doubles:
        return self._vectors[self._rows[positions]].astype(np.float64)

    @staticmethod
    def _chunks(rows: Rows, width: int) -> Iterator[Rows]:
        step = max(1, _CHUNK // max(width, 1))
        for start in range(0, len(rows), step):
            yield rows[start : start + step]


class _Cosines(_Search):
    """A score is a cosine."""

    def __init__(self, vectors: Floats, rows: Rows, k: int, check: Callable[[], None]) -> None:
        super().__init__(vectors, rows, k, check)
        # |x·y - fl(x·y)| <= (d + 4) u for unit vectors in any order of summation; two of them are compared.
        self._margin = np.float32(2 * (vectors.shape[1] + 4) * 2.0**-24)
        self._unit = _divided(vectors, rows, np.where(self._norms > 0, self._norms, 1.0))

    def with_itself(self) -> Doubles:
        return np.where(self._norms > 0, 1.0, 0.0)

    def values_of(self, scores: Doubles) -> Doubles:
        return scores

    def _tile(self, rows: slice | Rows, columns: slice, out: Floats | None = None) -> Floats:
        return np.matmul(self._unit[rows], self._unit[columns].T, out=out)

    def _exact(self, query: Rows, candidate: Rows) -> Doubles:
        product = self._of(query)
        product *= self._of(candidate)
        # A row's sum depends on the row's length alone, unlike a BLAS dot's, which may depend on its place.
        cosine: Doubles = product.sum(axis=1)
        norms = self._norms[query] * self._norms[candidate]
        np.divide(cosine, norms, out=cosine, where=norms > 0)
        return np.clip(cosine, -1.0, 1.0, out=cosine)


class _Distances(_Search):
    """A score is the squared distance, negative: 2 x·y - |x|² - |y|²."""

    def __init__(self, vectors: Floats, rows: Rows, k: int, check: Callable[[], None]) -> None:
        super().__init__(vectors, rows, k, check)
        # All are divided by the largest length, so that a bound on rounding holds: 2 (d + 4) u for the product of
        # vectors of at most length 1, 8 u for having rounded these, 12 u for squares and sums up to 4; twice, as two
        # scores are compared.
        self._margin = np.float32(2 * (2 * (vectors.shape[1] + 4) + 20) * 2.0**-24)
        largest = float(self._norms.max(initial=0.0)) or 1.0
        self._scaled = _divided(vectors, rows, np.full(len(rows), largest))
        self._squares = ((self._norms / largest) ** 2).astype(np.float32)

    def with_itself(self) -> Doubles:
        return np.zeros(len(self._rows))

    def values_of(self, scores: Doubles) -> Doubles:
        return np.sqrt(np.maximum(-scores, 0.0))

    def _tile(self, rows: slice | Rows, columns: slice, out: Floats | None = None) -> Floats:
        tile = np.matmul(self._scaled[rows], self._scaled[columns].T, out=out)
        tile *= 2
        tile -= self._squares[rows, None]
        tile -= self._squares[columns]
        return tile

    def _exact(self, query: Rows, candidate: Rows) -> Doubles:
        difference = self._of(query)
        difference -= self._of(candidate)
        difference *= difference
        squared: Doubles = difference.sum(axis=1)
        return np.negative(squared, out=squared)


_SEARCHES: dict[Metric, type[_Search]] = {Metric.COSINE: _Cosines, Metric.EUCLIDEAN: _Distances}


class _Best:
    """The best few columns of each row so far, unordered."""

    def __init__(self, num_rows: int, width: int) -> None:
        self.scores = np.full((num_rows, width), -np.inf, np.float32)
        self.columns = np.full((num_rows, width), -1, np.intp)

    def offer(self, top: int, left: int, tile: Floats) -> None:
        """Takes in the tile whose first row and column are `top` and `left`."""
        lowest = self.scores[top : top + len(tile)].min(axis=1)
        better = tile > lowest[:, None]
        if np.count_nonzero(better) <= _DENSE * better.size:
            self._merge_some(top, left, tile, *_nonzero(better))
        elif tile.shape[1] > _HEAD:
            # Nothing is known of these rows yet: the best of a few columns will sort out most of the others.
            self.offer(top, left, tile[:, :_HEAD])
            self.offer(top, left + _HEAD, tile[:, _HEAD:])
        else:
            columns = np.broadcast_to(left + np.arange(tile.shape[1]), tile.shape)
            self._merge(top + np.arange(len(tile)), tile, columns)

    def _merge_some(self, top: int, left: int, tile: Floats, row: Rows, column: Rows) -> None:
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
        self._merge(top + np.flatnonzero(counts), scores, columns)

    def _merge(self, rows: Rows, scores: Floats, columns: Rows) -> None:
        width = self.scores.shape[1]
        scores = np.concatenate([self.scores[rows], scores], axis=1)
        columns = np.concatenate([self.columns[rows], columns], axis=1)
        keep = np.argpartition(scores, -width, axis=1)[:, -width:]
        self.scores[rows] = np.take_along_axis(scores, keep, axis=1)
        self.columns[rows] = np.take_along_axis(columns, keep, axis=1)


def _nearest_groups(groups: _Groups, query: Rows, candidate: Rows, score: Doubles, k: int) -> tuple[Rows, Doubles]:
    """From neighbours among groups to those of rows: their groups' nearest other groups, each by its lowest row."""
    width = min(k, len(groups.sizes) - 1)
    row = groups.representatives[candidate]
    order, rank = _ranked(query, score, row)
    order, rank = order[rank < width], rank[rank < width]
    nearest = np.full((len(groups.sizes), width), -1, np.intp)
    scores = np.full(nearest.shape, -np.inf)
    nearest[query[order], rank] = row[order]
    scores[query[order], rank] = score[order]
    return nearest[groups.of_row], scores[groups.of_row]


def _expand(
    groups: _Groups, query: Rows, candidate: Rows, score: Doubles, k: int, *, with_itself: Doubles
) -> tuple[Rows, Doubles]:
    """From neighbours among groups to neighbours among rows. `with_itself`: the score of equal vectors, by group."""
    num_rows = len(groups.of_row)
    width = min(k, num_rows - 1)
    several = np.flatnonzero(groups.sizes > 1)
    query = np.concatenate([query, several])
    candidate = np.concatenate([candidate, several])
    score = np.concatenate([score, with_itself[several]])
    # Of a group at most k + 1 members can matter: k, and the row itself, which is left out below.
    repeats = np.minimum(groups.sizes[candidate], width + 1)
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    row = groups.members[np.repeat(groups.starts[candidate], repeats) + offset]
    query, score = np.repeat(query, repeats), np.repeat(score, repeats)
    order, rank = _ranked(query, score, row)
    order, rank = order[rank <= width], rank[rank <= width]
    nearest = np.full((len(groups.sizes), width + 1), -1, np.intp)
    scores = np.full(nearest.shape, -np.inf)
    nearest[query[order], rank] = row[order]
    scores[query[order], rank] = score[order]
    indices, found = nearest[groups.of_row], scores[groups.of_row]
    # The row itself, where it stands in its group's list, goes behind all others; the last column is then dropped.
    others = np.argsort(indices == np.arange(num_rows)[:, None], axis=1, kind="stable")[:, :width]
    return np.take_along_axis(indices, others, axis=1), np.take_along_axis(found, others, axis=1)


def _nonzero(mask: NDArray[np.bool_]) -> tuple[Rows, Rows]:
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


def _ranked(query: Rows, score: Doubles, row: Rows) -> tuple[Rows, Rows]:
    """An order by query, then nearest first, then row; and each element's rank within its query, in that order."""
    order = np.lexsort((row, -score, query))
    counts = np.bincount(query)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order, rank


def _lengths(vectors: Floats, rows: Rows) -> Doubles:
    """Lengths of the given rows."""
    norms = np.empty(len(rows))
    for start in range(0, len(rows), _TILE):
        part = slice(start, start + _TILE)
        block = vectors[rows[part]].astype(np.float64)
        norms[part] = np.sqrt((block * block).sum(axis=1))
    return norms


def _divided(vectors: Floats, rows: Rows, by: Doubles) -> Floats:
    """The given rows, each divided by a number of its own."""
    divided = np.empty((len(rows), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), _TILE):
        part = slice(start, start + _TILE)
        divided[part] = vectors[rows[part]].astype(np.float64) / by[part, None]
    return divided


def _all_finite(vectors: Floats) -> bool:
    return all(bool(np.isfinite(vectors[start : start + _TILE]).all()) for start in range(0, len(vectors), _TILE))
