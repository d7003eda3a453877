"""What makes vectors near: scores of pairs, in float32 by the tile and in float64 one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from enum import StrEnum

import numpy as np

from burnish_services.embedding.neighbors.arrays import Doubles, Floats, Rows, blocks, chunks


class Metric(StrEnum):
    """What makes rows near."""

    COSINE = "cosine"  # the larger, the nearer
    EUCLIDEAN = "euclidean"  # distance: the smaller, the nearer


class Scores(ABC):
    """Scores among distinct vectors, which are called by their position in `rows`; the larger, the nearer."""

    # Two scores that differ by more in float32 differ in truth.
    margin: np.float32

    def __init__(self, vectors: Floats, rows: Rows) -> None:
        self.vectors = vectors
        self.rows = rows
        self._norms = _lengths(vectors, rows)
        self._divisors = self._scale()
        self._matrix: Floats | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @abstractmethod
    def with_itself(self) -> Doubles:
        """The exact score of each vector with a copy of it."""

    @abstractmethod
    def values_of(self, scores: Doubles) -> Doubles:
        """Cosines or distances, from exact scores."""

    @abstractmethod
    def tile(self, rows: slice | Rows, columns: slice, out: Floats | None = None) -> Floats:
        """Scores of some vectors with others, float32."""

    @abstractmethod
    def _scale(self) -> Doubles:
        """What each vector is divided by, so that none is longer than 1."""

    @abstractmethod
    def _exact(self, query: Rows, candidate: Rows) -> Doubles:
        """Scores of pairs, float64, each by a sum whose order depends on nothing but the vectors' length."""

    @property
    def matrix(self) -> Floats:
        """The vectors, divided, (n, d) float32; made when first asked for, and as large as what they are made of."""
        if self._matrix is None:
            matrix = np.empty((len(self), self.vectors.shape[1]), np.float32)
            for part in blocks(len(self)):
                matrix[part] = self.divided(part)
            self._matrix = matrix
        return self._matrix

    def divided(self, positions: slice | Rows) -> Floats:
        """Some rows of `matrix`, which need not be there for that."""
        if self._matrix is not None:
            return self._matrix[positions]
        block = self.vectors[self.rows[positions]].astype(np.float64)
        return (block / self._divisors[positions, None]).astype(np.float32)

    def reordered(self, positions: Rows) -> Scores:
        """The scores among some of the vectors, divided as here, in another order."""
        some = copy(self)
        some.rows, some._norms, some._divisors = self.rows[positions], self._norms[positions], self._divisors[positions]
        some._matrix = None
        return some

    def exact(self, query: Rows, candidate: Rows, check: Callable[[], None]) -> Doubles:
        """Scores of pairs, float64: of (query, candidate) as of any other pair of the same vectors."""
        scores = np.empty(len(query))
        for some in chunks(np.arange(len(query)), self.vectors.shape[1]):
            check()
            scores[some] = self._exact(query[some], candidate[some])
        return scores

    def _of(self, positions: Rows) -> Doubles:
        return self.vectors[self.rows[positions]].astype(np.float64)


class Cosines(Scores):
    """A score is a cosine; that of a vector of zeros is 0."""

    def __init__(self, vectors: Floats, rows: Rows) -> None:
        super().__init__(vectors, rows)
        # |x·y - fl(x·y)| <= (d + 4) u for unit vectors in any order of summation; two of them are compared.
        self.margin = np.float32(2 * (vectors.shape[1] + 4) * 2.0**-24)

    def _scale(self) -> Doubles:
        return np.where(self._norms > 0, self._norms, 1.0)

    def with_itself(self) -> Doubles:
        """See Scores."""
        return np.where(self._norms > 0, 1.0, 0.0)

    def values_of(self, scores: Doubles) -> Doubles:
        """See Scores."""
        return scores

    def tile(self, rows: slice | Rows, columns: slice, out: Floats | None = None) -> Floats:
        """See Scores."""
        return np.matmul(self.matrix[rows], self.matrix[columns].T, out=out)

    def _exact(self, query: Rows, candidate: Rows) -> Doubles:
        product = self._of(query)
        product *= self._of(candidate)
        # A row's sum depends on the row's length alone, unlike a BLAS dot's, which may depend on its place.
        cosine: Doubles = product.sum(axis=1)
        norms = self._norms[query] * self._norms[candidate]
        np.divide(cosine, norms, out=cosine, where=norms > 0)
        return np.clip(cosine, -1.0, 1.0, out=cosine)


class Distances(Scores):
    """A score is the squared distance, negative: 2 x·y - |x|² - |y|²."""

    def __init__(self, vectors: Floats, rows: Rows) -> None:
        super().__init__(vectors, rows)
        # All are divided by the largest length, so that a bound on rounding holds: 2 (d + 4) u for the product of
        # vectors of at most length 1, 8 u for having rounded these, 12 u for squares and sums up to 4; twice, as two
        # scores are compared.
        self.margin = np.float32(2 * (2 * (vectors.shape[1] + 4) + 20) * 2.0**-24)

    def _scale(self) -> Doubles:
        return np.full(len(self._norms), float(self._norms.max(initial=0.0)) or 1.0)

    def with_itself(self) -> Doubles:
        """See Scores."""
        return np.zeros(len(self))

    def values_of(self, scores: Doubles) -> Doubles:
        """See Scores."""
        return np.sqrt(np.maximum(-scores, 0.0))

    def tile(self, rows: slice | Rows, columns: slice, out: Floats | None = None) -> Floats:
        """See Scores."""
        tile = np.matmul(self.matrix[rows], self.matrix[columns].T, out=out)
        tile *= 2
        tile -= self.squares(rows)[:, None]
        tile -= self.squares(columns)
        return tile

    def squares(self, positions: slice | Rows) -> Floats:
        """Squared lengths of rows of `matrix`."""
        squares: Floats = ((self._norms[positions] / self._divisors[positions]) ** 2).astype(np.float32)
        return squares

    def _exact(self, query: Rows, candidate: Rows) -> Doubles:
        difference = self._of(query)
        difference -= self._of(candidate)
        difference *= difference
        squared: Doubles = difference.sum(axis=1)
        return np.negative(squared, out=squared)


SCORES: dict[Metric, type[Scores]] = {Metric.COSINE: Cosines, Metric.EUCLIDEAN: Distances}


def _lengths(vectors: Floats, rows: Rows) -> Doubles:
    """Lengths of the given rows."""
    norms = np.empty(len(rows))
    for part in blocks(len(rows)):
        block = vectors[rows[part]].astype(np.float64)
        norms[part] = np.sqrt((block * block).sum(axis=1))
    return norms
