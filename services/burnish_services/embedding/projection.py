"""A picture of a set: its vectors' directions on the plane on which they differ most. Pure numpy, blockwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_BLOCK = 4096  # rows at a time


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Where n vectors lie: `points` float32 of shape (n, 2), around 0; `shares` of the variance that each axis shows,
    in [0, 1], the larger first."""

    points: Floats
    shares: tuple[float, float]


def principal_plane(vectors: Floats, *, check: Callable[[], None] = lambda: None) -> Plane:
    """The directions of `vectors` (float32, shape (n, d), finite) on their first two principal axes (Pearson 1901).

    Lengths are left out, since nearness is by cosine; a vector of zeros has no direction and counts as 0. An axis
    points to where its largest coefficient is positive, so that the same vectors give the same picture. Where there
    are fewer than two axes, or they show nothing, points are 0 there. Needs d × d numbers and a block of rows besides.
    `check` is called between blocks and may raise to give up.
    """
    num_rows, dimension = vectors.shape
    points = np.zeros((num_rows, 2), np.float32)
    if num_rows == 0 or dimension == 0:
        return Plane(points, (0.0, 0.0))
    total = np.zeros(dimension)
    products = np.zeros((dimension, dimension))
    for _, unit in _blocks(vectors, check):
        total += unit.sum(axis=0)
        products += unit.T @ unit
    mean = total / num_rows
    variances, axes = np.linalg.eigh(products / num_rows - np.outer(mean, mean))
    variances, axes = np.maximum(variances[::-1][:2], 0.0), axes[:, ::-1][:, :2]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    for part, unit in _blocks(vectors, check):
        points[part, : axes.shape[1]] = (unit - mean) @ axes
    # 1 - |mean|² of unit vectors; a little less where some are zero.
    spread = float(np.trace(products) / num_rows - mean @ mean)
    shares = [float(variance / spread) if spread > 1e-12 else 0.0 for variance in variances] + [0.0]
    return Plane(points, (min(shares[0], 1.0), min(shares[1], 1.0)))


def _blocks(vectors: Floats, check: Callable[[], None]) -> Iterator[tuple[slice, Doubles]]:
    """The directions, a block of rows at a time."""
    for start in range(0, len(vectors), _BLOCK):
        check()
        part = slice(start, start + _BLOCK)
        block = vectors[part].astype(np.float64)
        lengths = np.sqrt((block * block).sum(axis=1, keepdims=True))
        yield part, np.divide(block, lengths, out=np.zeros_like(block), where=lengths > 0)
