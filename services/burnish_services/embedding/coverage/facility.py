"""Facility location on vectors: every row should have a selected row near it. A baseline for coverage of features."""

from __future__ import annotations

from copy import copy
from typing import Self

import numpy as np

from burnish_services.embedding.coverage.arrays import Doubles, Rows
from burnish_services.embedding.coverage.objectives import modular_gains
from burnish_services.embedding.coverage.vectors import UnitVectors


class FacilityLocation:
    """F(S) = Σ_i max(0, max_{j∈S} cos(i, j)) + quality_weight Σ_{j∈S} quality_j, over all n rows i.

    Never holds n × n cosines: a gain costs a pass over all vectors, and as a pass serves many rows at once,
    stochastic greedy suits it better than lazy. `quality` is in [0, 1], shape (n,). Raises ValueError for other
    input.
    """

    def __init__(self, vectors: UnitVectors, *, quality: Doubles | None = None, quality_weight: float = 0.0) -> None:
        self._vectors = vectors
        self._modular = modular_gains(quality, quality_weight, vectors.num_rows)
        self._best = np.zeros(vectors.num_rows)  # of each row the cosine with the nearest selected one
        self._selected = np.zeros(vectors.num_rows, bool)

    @property
    def num_rows(self) -> int:
        """n."""
        return self._vectors.num_rows

    @property
    def value(self) -> float:
        """F."""
        return float(self._best.sum() + self._modular[self._selected].sum())

    def gains(self, rows: Rows) -> Doubles:
        """Σ_i max(0, cos(i, row) - best_i) + quality_weight quality_row. Equal rows tie exactly."""
        gains = np.zeros(len(rows))
        for place, candidates in self._vectors.blocks(rows):
            for part, block in self._vectors.blocks():
                rises = candidates.cosines(block)
                rises -= self._best[part]
                np.maximum(rises, 0.0, out=rises)
                # Along the contiguous axis: a row's sum then depends on the row's length alone, not on its place.
                gains[place] += rises.sum(axis=1)
        return gains + self._modular[rows]

    def add(self, row: int) -> None:
        """Selects a row. ValueError where it is selected already."""
        if self._selected[row]:
            raise ValueError(f"row {row} is selected already")
        self._selected[row] = True
        selected = self._vectors.block(np.array([row]))
        for part, block in self._vectors.blocks():
            np.maximum(self._best[part], selected.cosines(block)[0], out=self._best[part])

    def copy(self) -> Self:
        """The same state, from here on independent; the vectors are shared."""
        twin = copy(self)
        twin._best = self._best.copy()
        twin._selected = self._selected.copy()
        return twin
