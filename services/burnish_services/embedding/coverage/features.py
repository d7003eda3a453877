"""The samples' active features, as the binarisers make them: which neurons stand out on which sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage import kernels
from burnish_services.embedding.coverage.arrays import MOST_FEATURES, MOST_NEURONS, Doubles, Ids, Rows


@dataclass(frozen=True, slots=True, eq=False)
class FeatureRows:
    """Which of `num_features` features each of n rows has. Made by `packed` and `ragged`, which check what they get.

    The feature of a row's entry at column c is `offsets[c]` plus that entry, so that packed rows, which dominate the
    memory, stay the uint16 they are stored as. The arrays are read-only.
    """

    ids: Ids  # all rows' entries, one row after the other
    starts: Rows  # (n + 1,): where each row starts in `ids`
    offsets: NDArray[np.uint64]  # as many as the longest row has entries
    num_features: int

    @classmethod
    def packed(cls, ids: NDArray[np.uint16], *, num_layers: int, width: int) -> FeatureRows:
        """Rows of `num_layers` times k ids, uint16, shape (n, num_layers * k): of each layer k different neurons in
        [0, width), ascending. Feature (layer, neuron) has number layer * width + neuron.

        The matrix is not copied; it may be memory-mapped. Raises ValueError for other input.
        """
        if ids.ndim != 2 or ids.dtype != np.uint16 or not ids.flags.c_contiguous:
            raise ValueError(f"expected a contiguous uint16 matrix, got {ids.dtype} of shape {ids.shape}")
        if num_layers < 1 or ids.shape[1] % num_layers:
            raise ValueError(f"{ids.shape[1]} columns are not the same number of ids for each of {num_layers} layers")
        if not 1 <= width <= MOST_NEURONS:
            raise ValueError(f"a layer has {width} neurons, expected 1 to {MOST_NEURONS}")
        num_rows, columns = ids.shape
        layers = np.repeat(np.arange(num_layers, dtype=np.uint64), columns // num_layers)
        starts = np.arange(num_rows + 1, dtype=np.intp) * columns
        rows = cls._frozen(ids.reshape(-1), starts, layers * np.uint64(width), num_layers * width)
        return rows._checked(width)

    @classmethod
    def ragged(cls, ids: NDArray[np.uint32], indptr: NDArray[np.int64], num_features: int) -> FeatureRows:
        """Row i has the features `ids[indptr[i]:indptr[i + 1]]`, ascending, different, in [0, num_features).

        `ids` is uint32 and not copied, `indptr` int64 of shape (n + 1,). Raises ValueError for other input.
        """
        if ids.ndim != 1 or ids.dtype != np.uint32 or not ids.flags.c_contiguous:
            raise ValueError(f"expected a contiguous uint32 vector of ids, got {ids.dtype} of shape {ids.shape}")
        if indptr.ndim != 1 or indptr.dtype != np.int64 or len(indptr) == 0:
            raise ValueError(f"expected a non-empty int64 vector indptr, got {indptr.dtype} of shape {indptr.shape}")
        lengths = np.diff(indptr)
        if indptr[0] != 0 or indptr[-1] != len(ids) or (lengths < 0).any():
            raise ValueError(f"indptr has to rise from 0 to the number of ids, {len(ids)}, without falling")
        if not 1 <= num_features <= MOST_FEATURES:
            raise ValueError(f"there are {num_features} features, expected 1 to {MOST_FEATURES}")
        offsets = np.zeros(lengths.max(initial=0), np.uint64)
        return cls._frozen(ids, indptr.astype(np.intp), offsets, num_features)._checked(num_features)

    @property
    def num_rows(self) -> int:
        """n."""
        return len(self.starts) - 1

    def frequencies(self) -> Rows:
        """The number of rows that have each feature, shape (num_features,). One pass over all rows."""
        frequencies = np.zeros(self.num_features, np.intp)
        kernels.count_features(self.ids, self.starts, self.offsets, frequencies)
        return frequencies

    @classmethod
    def _frozen(cls, ids: Ids, starts: Rows, offsets: NDArray[np.uint64], num_features: int) -> FeatureRows:
        # A kernel is compiled once per kind of array, and a read-only one is a kind of its own: freezing all of them,
        # memory-mapped or not, saves compiling twice.
        frozen = cls(ids.view(np.ndarray), starts.view(), offsets.view(), num_features)
        for array in (frozen.ids, frozen.starts, frozen.offsets):
            array.flags.writeable = False
        return frozen

    def _checked(self, width: int) -> FeatureRows:
        row = kernels.first_disorder(self.ids, self.starts, self.offsets, width)
        if row >= 0:
            entries = self.ids[self.starts[row] : self.starts[row + 1]]
            if entries.max() >= width:
                raise ValueError(f"row {row} has id {entries.max()}, expected ids below {width}")
            raise ValueError(f"row {row} has ids that do not ascend strictly; sort them and drop repeated ones")
        return self


def idf_weights(frequencies: Rows, num_rows: int) -> Doubles:
    """√log(n / df) for features that df of n rows have: the rarer, the heavier. Zero where df < 2, for what one
    sample alone shows is taken for noise, and where every row has the feature. Shape of `frequencies`."""
    weights = np.zeros(len(frequencies))
    shared = frequencies >= 2
    weights[shared] = np.sqrt(np.log(num_rows / frequencies[shared]))
    return weights
