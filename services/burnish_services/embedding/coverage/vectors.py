"""Cosines that are exact: the same two rows have the same cosine to the last bit, whatever tile they are computed in.

BLAS sums in an order that depends on a matrix's shape and a row's place in it, so that equal rows need not tie and
the same pair may differ from call to call. Here every coordinate is rounded to a multiple of 2^-24 once. Products of
coordinates are then multiples of 2^-48, and a float64 holds every partial sum of a scalar product of unit vectors
without rounding: order no longer matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import Doubles, Floats, Rows

TILE = 1024  # rows of a block
_GRID = 2.0**24


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Some rows of `UnitVectors`, ready for products."""

    vectors: Doubles  # (rows, d), unit up to rounding, or zero
    defects: Doubles  # (rows,): half of what is missing from a squared length of 1
    is_zero: NDArray[np.bool_]  # (rows,)

    def cosines(self, other: Block) -> Doubles:
        """Cosines of these rows with those of `other`, in [-1, 1], shape (rows, other's rows). Equal rows have
        exactly 1, a row of zeros has 0 with every row. Errs by about 1e-7."""
        # 1 - |a - b|² / 2 = a·b + (1 - |a|²) / 2 + (1 - |b|²) / 2, all multiples of 2^-49 and so exact.
        tile: Doubles = self.vectors @ other.vectors.T
        tile += self.defects[:, None]
        tile += other.defects
        tile[self.is_zero] = 0
        tile[:, other.is_zero] = 0
        return np.maximum(tile, -1.0, out=tile)


class UnitVectors:
    """The directions of n vectors: float32, shape (n, d), finite. Needs the memory of `vectors` once more.

    Raises ValueError for other input.
    """

    def __init__(self, vectors: Floats) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError(f"expected a float32 matrix, got {vectors.dtype} of shape {vectors.shape}")
        self._vectors = np.empty(
            (len(vectors), vectors.shape[1]), np.float32
        )  # the grid's numbers in [-1, 1] are float32 numbers
        self._defects = np.empty(len(vectors))
        self._is_zero = np.empty(len(vectors), bool)
        for start in range(0, len(vectors), TILE):
            part = slice(start, start + TILE)
            block = vectors[part].astype(np.float64)
            if not np.isfinite(block).all():
                raise ValueError("expected finite vectors, found NaN or infinity")
            norms = np.sqrt((block * block).sum(axis=1))
            block /= np.where(norms > 0, norms, 1.0)[:, None]
            block = np.rint(block * _GRID) / _GRID
            self._vectors[part] = block
            self._defects[part] = (1 - (block * block).sum(axis=1)) / 2
            self._is_zero[part] = norms == 0

    @property
    def num_rows(self) -> int:
        """n."""
        return len(self._vectors)

    def block(self, rows: Rows | slice) -> Block:
        """The given rows."""
        return Block(self._vectors[rows].astype(np.float64), self._defects[rows], self._is_zero[rows])

    def blocks(self, rows: Rows | None = None) -> Iterator[tuple[slice, Block]]:
        """The given rows, by default all, in blocks of bounded size; each with its place in `rows`."""
        for start in range(0, self.num_rows if rows is None else len(rows), TILE):
            part = slice(start, start + TILE)
            yield part, self.block(part if rows is None else rows[part])

    def mean_direction(self) -> Block:
        """The direction of the mean of the unit vectors, one row; zero where they cancel out."""
        total = np.zeros(self._vectors.shape[1])
        for _, block in self.blocks():
            total += block.vectors.sum(axis=0)
        return UnitVectors(total[None].astype(np.float32)).block(slice(None))
