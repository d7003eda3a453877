"""Approximate search by an inverted file (IVF; Jégou, Douze, Schmid 2011, §III): vectors are divided among cells, each
around a centroid, and a vector's neighbours are sought in the few cells nearest to it.

All vectors are queries here, so that the queries of a cell are many, and visiting it is one matrix product. How many
cells must be searched is not guessed: the true neighbours of a sample of the vectors are found, and it is looked up in
which of the nearest cells they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.neighbors.arrays import Doubles, Floats, Rows, blocks, chunks, ranked
from burnish_services.embedding.neighbors.best import Best, width
from burnish_services.embedding.neighbors.exact import Pairs, against_all, hide_themselves, reaching
from burnish_services.embedding.neighbors.scores import Scores

Cells = NDArray[np.int32]

_SEED = 0
_CELLS_PER_ROOT = 2.0  # cells, for each square root of the number of vectors
_SAMPLES_PER_CELL = 40  # vectors that show where a cell's centroid should be
_STEPS = 6  # of k-means: the cells need not be the best ones
_KEPT = 16  # cells of each vector that are found in the first pass; where more are searched it takes a second
_TIES = 32  # vectors looked at beyond the k-th that may tie with it
_QUERIES = 500  # vectors whose true neighbours are found, twice: to choose the cells by, and to measure recall with


@dataclass(frozen=True, slots=True)
class Search:
    """How neighbours were sought. Exactly where there are no cells."""

    recall: float = 1.0  # share of the true neighbours that were found, in [0, 1]; measured on `num_queries` vectors
    num_queries: int = 0
    num_cells: int = 0
    num_probed: int = 0  # cells that each vector was compared with


EXACT = Search()


def probed_pairs(scores: Scores, k: int, recall: float, check: Callable[[], None]) -> tuple[Pairs, Search]:
    """The k nearest of every vector, 1 <= k < n, of which about the share `recall` or more should be true; and what
    share it was."""
    rng = np.random.default_rng(_SEED)
    centroids = _centroids(scores, rng, check)
    near = _nearest_cells(scores, np.arange(len(scores)), centroids, min(_KEPT, len(centroids)), check)
    order = np.argsort(near[:, 0], kind="stable")
    file = _InvertedFile(scores.reordered(order), centroids, near[order])
    sample = rng.permutation(len(scores))[: 2 * _QUERIES]
    num_probed = file.enough(np.sort(sample[::2]), k, recall, check)
    pairs = file.pairs(num_probed, k, check)
    measured = np.sort(sample[1::2])
    found = file.recall(measured, pairs, k, check)
    original = Pairs(order[pairs.query], order[pairs.candidate], pairs.score)
    return original, Search(found, len(measured), len(centroids), num_probed)


class _InvertedFile:
    """Vectors in order of their cells, so that a cell is a slice. `near` are the first few cells of each, nearest
    first; the first is its own."""

    def __init__(self, scores: Scores, centroids: Floats, near: Cells) -> None:
        self._scores = scores
        self._centroids = centroids
        self._near = near
        self._cell_of = near[:, 0]
        self._starts = np.searchsorted(self._cell_of, np.arange(len(centroids) + 1))

    def enough(self, sample: Rows, k: int, recall: float, check: Callable[[], None]) -> int:
        """How many cells hold the share `recall` of the true neighbours of a sample, with two standard errors to spare,
        for it is a sample."""
        truth = against_all(self._scores, sample, min(k + _TIES, len(self._scores) - 1), check)
        kth = self._kth_scores(truth, k)
        # What float32 could not tell from the k-th is no neighbour: to find it in its place would be to miss one.
        truth = truth.only(truth.score >= kth[truth.query])
        near = _nearest_cells(self._scores, sample, self._centroids, len(self._centroids), check)
        place = np.argsort(near, axis=1)  # of each cell among the nearest to each vector of the sample
        away = place[np.searchsorted(sample, truth.query), self._cell_of[truth.candidate]]
        # Of several that tie for the k-th place any will do, so those that are found first.
        order, rank = ranked(truth.query, -away.astype(np.float64), truth.candidate)
        needed = np.sort(away[order[rank < k]])
        spare = 2 * np.sqrt(recall * (1 - recall) / len(needed))
        return int(needed[min(int(np.ceil((recall + spare) * len(needed))), len(needed)) - 1]) + 1

    def pairs(self, num_probed: int, k: int, check: Callable[[], None]) -> Pairs:
        """The best candidates of every vector in its nearest cells."""
        everyone = np.arange(len(self._scores))
        best = Best(len(everyone), width(k, len(everyone)))
        # Each in its own cell first, which leaves little to find in the others.
        for cell in range(len(self._centroids)):
            self._visit(best, cell, everyone[self._starts[cell] : self._starts[cell + 1]], check)
        # Where many cells are probed, fewer vectors at a time, so that visits take no more memory.
        step = max(1, len(everyone) * _KEPT // num_probed)
        for start in range(0, len(everyone), step):
            self._visit_others(best, everyone[start : start + step], num_probed, check)
        limit = np.partition(best.scores, -k, axis=1)[:, -k] - self._scores.margin
        few = np.flatnonzero(np.isneginf(limit))  # those whose cells held too few to choose from
        limit[few] = np.inf
        found = [reaching(self._scores, everyone, best, limit, check)]
        if len(few):
            found.append(against_all(self._scores, few, k, check))
        return Pairs.joined(found)

    def recall(self, sample: Rows, found: Pairs, k: int, check: Callable[[], None]) -> float:
        """The share of the k nearest of a sample that is among what was found; what ties with the k-th is as good."""
        kth = self._kth_scores(against_all(self._scores, sample, k, check), k)
        good = np.bincount(found.query[found.score >= kth[found.query]], minlength=len(kth))
        return float(np.minimum(good[sample], k).mean() / k)

    def _kth_scores(self, truth: Pairs, k: int) -> Doubles:
        """(n,): the score of the k-th nearest of each vector that was asked for, infinity for the others."""
        order, rank = ranked(truth.query, truth.score, truth.candidate)
        last = order[rank == k - 1]
        kth = np.full(len(self._scores), np.inf)
        kth[truth.query[last]] = truth.score[last]
        return kth

    def _visit_others(self, best: Best, queries: Rows, num_probed: int, check: Callable[[], None]) -> None:
        """Compares these vectors with those of their nearest cells, their own left out."""
        near = self._near[queries, :num_probed].ravel()
        if num_probed > self._near.shape[1]:
            near = _nearest_cells(self._scores, queries, self._centroids, num_probed, check).ravel()
        visits = np.flatnonzero(near != np.repeat(self._cell_of[queries], num_probed))
        visits = visits[np.argsort(near[visits], kind="stable")]
        bounds = np.searchsorted(near[visits], np.arange(len(self._centroids) + 1))
        for cell in range(len(self._centroids)):
            self._visit(best, cell, queries[visits[bounds[cell] : bounds[cell + 1]] // num_probed], check)

    def _visit(self, best: Best, cell: int, queries: Rows, check: Callable[[], None]) -> None:
        """Compares these vectors with those of a cell."""
        there = slice(int(self._starts[cell]), int(self._starts[cell + 1]))
        for part in chunks(queries, there.stop - there.start):
            check()
            tile = self._scores.tile(part, there)
            hide_themselves(tile, part, there)
            best.offer(part, there.start, tile)


def _centroids(scores: Scores, rng: np.random.Generator, check: Callable[[], None]) -> Floats:
    """Means of k clusters (Lloyd) of a part of the vectors. A cluster that loses all its members keeps its mean."""
    number = max(1, round(_CELLS_PER_ROOT * len(scores) ** 0.5))
    sample = scores.reordered(np.sort(rng.permutation(len(scores))[: number * _SAMPLES_PER_CELL]))
    everyone = np.arange(len(sample))
    centroids = sample.matrix[rng.permutation(len(sample))[:number]]
    for _ in range(_STEPS):
        cell_of = _nearest_cells(sample, everyone, centroids, 1, check)[:, 0]
        filled, starts = np.unique(np.sort(cell_of), return_index=True)
        sums = np.add.reduceat(sample.matrix[np.argsort(cell_of, kind="stable")], starts, axis=0)
        centroids[filled] = sums / np.bincount(cell_of)[filled, None]
    return centroids


def _nearest_cells(scores: Scores, positions: Rows, centroids: Floats, number: int, check: Callable[[], None]) -> Cells:
    """The nearest `number` cells of some vectors, by distance to centroids, nearest first; (positions, number)."""
    squares = (centroids * centroids).sum(axis=1)
    columns = np.ascontiguousarray(-2 * centroids.T)
    near = np.empty((len(positions), number), np.int32)
    for part in blocks(len(positions)):
        check()
        # |x - c|² - |x|², as good as the distance to tell cells apart.
        away = scores.divided(positions[part]) @ columns
        away += squares
        if number == 1:
            near[part, 0] = away.argmin(axis=1)
            continue
        some = np.argpartition(away, number - 1, axis=1)[:, :number]
        near[part] = np.take_along_axis(some, np.argsort(np.take_along_axis(away, some, axis=1), axis=1), axis=1)
    return near
