"""What is usual for a neuron: mean, deviation and range of its pooled activation over calibration samples."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from burnish_services.embedding.coverage.arrays import Doubles, Floats


@dataclass(slots=True, eq=False)
class Moments:
    """Moments of each of F neurons in each of L layers over `count` samples; all arrays of shape (L, F).

    Merged as Chan et al. 1979 do: samples may come one by one, in batches, and from several processes, in any order,
    with the same result up to rounding.
    """

    count: int
    mean: Doubles
    m2: Doubles  # summed squared deviations from the mean
    low: Doubles  # the smallest value; inf before the first sample
    high: Doubles  # the largest value; -inf before the first sample

    @classmethod
    def empty(cls, num_layers: int, width: int) -> Moments:
        """Of no samples."""
        shape = num_layers, width
        return cls(0, np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf))

    def update(self, batch: Floats) -> None:
        """Takes in samples' pooled activations, shape (n, L, F). Raises ValueError for another shape, NaN, infinity;
        nothing is taken in then."""
        if batch.ndim != 3 or batch.shape[1:] != self.mean.shape:
            raise ValueError(
                f"a batch has shape {batch.shape}, expected (n, {self.mean.shape[0]}, {self.mean.shape[1]})"
            )
        if len(batch) == 0:
            return
        low, high = batch.min(axis=0).astype(np.float64), batch.max(axis=0).astype(np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError("expected finite activations, found NaN or infinity")
        mean = batch.mean(axis=0, dtype=np.float64)
        m2 = np.zeros_like(mean)
        for sample in batch:  # one by one, for a batch in float64 would be large
            deviation = sample - mean
            m2 += deviation * deviation
        self.merge(Moments(len(batch), mean, m2, low, high))

    def merge(self, other: Moments) -> None:
        """Takes in what `other` has seen. Raises ValueError for another shape."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"moments of shape {other.mean.shape}, expected {self.mean.shape}")
        count = self.count + other.count
        if count == 0:
            return
        delta = other.mean - self.mean
        self.mean += delta * (other.count / count)
        self.m2 += other.m2 + delta * delta * (self.count * other.count / count)
        np.minimum(self.low, other.low, out=self.low)
        np.maximum(self.high, other.high, out=self.high)
        self.count = count

    @property
    def std(self) -> Doubles:
        """The standard deviation σ of the samples seen, not of a population estimated from them. ValueError before
        the first sample."""
        if self.count == 0:
            raise ValueError("there is no deviation before the first sample")
        return np.sqrt(self.m2 / self.count)


class BinnedMoments:
    """Moments apart for shorter and longer samples, for a maximum over tokens grows with their number.

    `boundaries` are numbers of tokens, ascending, say quartiles: bin b has the samples of boundaries[b - 1] up to but
    not including boundaries[b] tokens. Raises ValueError where they do not ascend strictly.
    """

    def __init__(self, boundaries: Sequence[int], num_layers: int, width: int) -> None:
        if any(low >= high for low, high in pairwise(boundaries)):
            raise ValueError(f"boundaries {list(boundaries)} do not ascend strictly")
        self.boundaries = tuple(boundaries)
        self.bins = tuple(Moments.empty(num_layers, width) for _ in range(len(boundaries) + 1))

    def of(self, length: int) -> Moments:
        """The moments of samples of about `length` tokens."""
        return self.bins[bisect_right(self.boundaries, length)]

    def update(self, batch: Floats, lengths: Sequence[int]) -> None:
        """Takes in samples' pooled activations, shape (n, L, F), and their numbers of tokens. Raises ValueError as
        `Moments.update` does, and for another number of lengths."""
        if len(lengths) != len(batch):
            raise ValueError(f"{len(lengths)} lengths for {len(batch)} samples")
        places = np.array([bisect_right(self.boundaries, length) for length in lengths], np.intp)
        for place in np.unique(places).tolist():
            self.bins[place].update(batch[places == place])

    def merge(self, other: BinnedMoments) -> None:
        """Takes in what `other` has seen. Raises ValueError for other boundaries or another shape."""
        if other.boundaries != self.boundaries:
            raise ValueError(f"moments binned at {other.boundaries}, expected {self.boundaries}")
        for mine, theirs in zip(self.bins, other.bins, strict=True):
            mine.merge(theirs)
