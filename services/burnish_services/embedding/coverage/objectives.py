"""What a selection is worth, for the optimisers; and coverage of features, the objective of MADS-style selection.

The methods are coverage of neurons that are active in inference (MADS, arXiv 2605.30857), with log-coverage as the
objective: one that counts repetitions, for plain union coverage saturates after a few hundred picks.
"""

from __future__ import annotations

from copy import copy
from typing import Protocol, Self

import numpy as np

from burnish_services.embedding.coverage import kernels
from burnish_services.embedding.coverage.arrays import Doubles, Rows
from burnish_services.embedding.coverage.features import FeatureRows
from burnish_services.embedding.coverage.increments import Increment, LogCount


class Objective(Protocol):
    """A monotone submodular function F of a set of rows, and the set selected so far, empty at first.

    A row's gain must depend on the row and the set alone, not on what else is asked for in the same call, and never
    rise as the set grows, to the last bit: exact lazy greedy rests on that.
    """

    @property
    def num_rows(self) -> int:
        """n, the number of rows that there are to select from."""
        ...

    @property
    def value(self) -> float:
        """F of the set."""
        ...

    def gains(self, rows: Rows) -> Doubles:
        """What F would rise by if the row were added, for each of `rows`, none of them selected: >= 0, same shape."""
        ...

    def add(self, row: int) -> None:
        """Selects a row. ValueError where it is selected already."""
        ...

    def copy(self) -> Self:
        """The same state, from here on independent; what does not change is shared."""
        ...


class FeatureCoverage:
    """F(S) = Σ_f weights_f φ(c_f(S)) + quality_weight Σ_{i∈S} quality_i, c_f(S) the rows of S that have feature f.

    `weights` are finite and >= 0, shape (D,), 1 by default. `quality` is in [0, 1], shape (n,), say a percentile; it
    is modular, so F stays monotone submodular. Memory, besides the rows: 20 bytes a feature and 17 a row. Raises
    ValueError for other input.
    """

    def __init__(
        self,
        features: FeatureRows,
        *,
        increment: Increment = LogCount(),
        weights: Doubles | None = None,
        quality: Doubles | None = None,
        quality_weight: float = 0.0,
    ) -> None:
        self._increment = increment
        steps = increment.steps(features.num_rows + 1)
        checked = _checked_weights(weights, features.num_features)
        self._state = kernels.CoverageState(
            ids=features.ids,
            starts=features.starts,
            offsets=features.offsets,
            weights=checked,
            steps=steps,
            modular=modular_gains(quality, quality_weight, features.num_rows),
            counts=np.zeros(features.num_features, np.int64),
            marginals=(checked * steps[0]).astype(np.float32),
            selected=np.zeros(features.num_rows, bool),
        )

    @property
    def state(self) -> kernels.CoverageState:
        """What the compiled optimisers work on: they go on with it as `add` does."""
        return self._state

    @property
    def num_rows(self) -> int:
        """n."""
        return len(self._state.selected)

    @property
    def value(self) -> float:
        """F, summed anew, so that it does not depend on the order of selection. Takes a pass over all features."""
        covered = self._state.weights * self._increment.values(self._state.counts)
        return float(covered.sum() + self._state.modular[self._state.selected].sum())

    @property
    def num_covered(self) -> int:
        """How many different features the selected rows have."""
        return int(np.count_nonzero(self._state.counts))

    def gains(self, rows: Rows) -> Doubles:
        """Σ_{f∈row} weights_f [φ(c_f + 1) - φ(c_f)] + quality_weight quality_row, to 7 digits. Equal rows tie
        exactly."""
        rows = np.array(rows, np.intp)
        gains = np.empty(len(rows))
        kernels.gains(self._state, rows, gains)
        return gains

    def add(self, row: int) -> None:
        """Selects a row. ValueError where it is selected already."""
        if self._state.selected[row]:
            raise ValueError(f"row {row} is selected already")
        kernels.add(self._state, row)

    def copy(self) -> Self:
        """The same state, from here on independent; rows and weights are shared."""
        twin = copy(self)
        twin._state = self._state._replace(
            counts=self._state.counts.copy(),
            marginals=self._state.marginals.copy(),
            selected=self._state.selected.copy(),
        )
        return twin


def modular_gains(quality: Doubles | None, weight: float, num_rows: int) -> Doubles:
    """weight * quality, shape (n,), or zeros without quality. ValueError for a quality outside [0, 1], a weight that
    is negative or not finite, and a weight without quality."""
    if not 0 <= weight < np.inf:
        raise ValueError(f"the weight of quality is {weight}, expected a finite number of at least 0")
    if quality is None:
        if weight:
            raise ValueError(f"the weight of quality is {weight}, but no quality is given")
        return np.zeros(num_rows)
    if quality.shape != (num_rows,):
        raise ValueError(f"quality has shape {quality.shape}, expected ({num_rows},)")
    if not ((quality >= 0) & (quality <= 1)).all():
        raise ValueError("expected every quality in [0, 1]")
    return weight * quality.astype(np.float64)


def _checked_weights(weights: Doubles | None, num_features: int) -> Doubles:
    if weights is None:
        return np.ones(num_features)
    if weights.shape != (num_features,):
        raise ValueError(f"weights have shape {weights.shape}, expected ({num_features},)")
    if not ((weights >= 0) & (weights <= np.finfo(np.float32).max)).all():
        raise ValueError("expected weights of at least 0 that are finite in float32")
    return np.array(weights, np.float64)
