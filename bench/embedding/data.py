"""Made-up data for the embedding bench, and what decides who found what: exact neighbours, coverage, recall.

Vectors and features are written to files in pieces, and every contender reads the same. Both are made to be like real
ones in what makes the work hard or easy. Vectors: few directions carry most of the variance, as of SmolLM2-135M's
embeddings of Alpaca (half of it in 7 directions of 576, nine tenths in 90), and topics of unequal size overlap.
Features: of each layer 32 different ones among 8,192 neurons, as of a 3B model; half of them are common to all topics
and fall off in frequency, the others belong to the topic.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numba import njit
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Packed = NDArray[np.uint16]
Rows = NDArray[np.intp]

DIMENSION = 576
LAYERS, PER_LAYER, WIDTH = 28, 32, 8192
NUM_FEATURES = LAYERS * WIDTH
TOPICS = 1000
_WINDOW = 512  # neurons of a layer that a topic has for itself, or shares with a few others
_WITHIN = 0.4  # share of the variance within a topic
_PIECE = 20_000  # rows made, or looked at, at once


def write_vectors(path: Path, rows: int) -> None:
    """(rows, 576) float32, neither of length 1 nor around 0."""
    rng = np.random.default_rng(1)
    scale = ((np.arange(DIMENSION) + 3.0) ** -0.75).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0].astype(np.float32)
    centres = rng.standard_normal((TOPICS, DIMENSION), dtype=np.float32) * scale * np.float32(np.sqrt(1 - _WITHIN))
    mean = 2 * np.linalg.norm(scale) * rng.standard_normal(DIMENSION, dtype=np.float32) / np.float32(DIMENSION**0.5)
    made = open_memmap(path, "w+", np.float32, (rows, DIMENSION))
    for start in range(0, rows, _PIECE):
        count = min(_PIECE, rows - start)
        noise = rng.standard_normal((count, DIMENSION), dtype=np.float32) * scale * np.float32(np.sqrt(_WITHIN))
        made[start : start + count] = (centres[_topics(rng, count)] + noise) @ rotation + mean
    made.flush()


def write_features(path: Path, rows: int) -> None:
    """(rows, 28 * 32) uint16, of each layer 32 different neurons, ascending."""
    rng = np.random.default_rng(2)
    # Frequent neurons are not each other's neighbours, which would be kind to caches.
    neurons = np.stack([rng.permutation(WIDTH) for _ in range(LAYERS)]).astype(np.uint16)
    windows = rng.integers(0, WIDTH, (TOPICS, LAYERS))
    made = open_memmap(path, "w+", np.uint16, (rows, LAYERS * PER_LAYER))
    for start in range(0, rows, _PIECE):
        part = np.empty((min(_PIECE, rows - start), LAYERS, PER_LAYER), np.uint16)
        _draw(part, neurons, windows, _topics(rng, len(part)), int(rng.integers(1 << 31)))
        part.sort(axis=2)
        made[start : start + len(part)] = part.reshape(len(part), -1)
    made.flush()


def _topics(rng: np.random.Generator, count: int) -> Rows:
    """Topics of rows, the n-th most frequent 1/√n as frequent."""
    return (TOPICS * rng.random(count) ** 2).astype(np.intp)


@njit
def _draw(made: Packed, neurons: Packed, windows: NDArray[np.int64], topics: Rows, seed: int) -> None:
    np.random.seed(seed)
    last = np.full(WIDTH, -1, np.int64)
    for row in range(made.shape[0]):
        for layer in range(LAYERS):
            mark = row * LAYERS + layer
            found = 0
            while found < PER_LAYER:
                place = np.random.random() ** 2  # the n-th most frequent is 1/√n as frequent
                if np.random.random() < 0.5:
                    drawn = int(place * WIDTH)
                else:
                    drawn = (windows[topics[row], layer] + int(place * _WINDOW)) % WIDTH
                neuron = neurons[layer, drawn]
                if last[neuron] != mark:
                    last[neuron] = mark
                    made[row, layer, found] = neuron
                    found += 1


def numbered(packed: Packed) -> NDArray[np.int64]:
    """Features as one number each instead of a layer's neuron, same shape."""
    first = np.repeat(np.arange(LAYERS, dtype=np.int64) * WIDTH, PER_LAYER)
    return first + packed.astype(np.int64)


def coverage(packed: Packed, rows: Rows) -> float:
    """Σ log(1 + c) over all features, c of `rows` having one: what all selections are compared by."""
    counts = np.zeros(NUM_FEATURES, np.int64)
    for start in range(0, len(rows), _PIECE):
        part = numbered(packed[np.sort(rows[start : start + _PIECE])])
        counts += np.bincount(part.ravel(), minlength=NUM_FEATURES)
    return float(np.log1p(counts).sum())


def random_coverage(packed: Packed, picks: int) -> float:
    """Mean coverage of three random selections."""
    rng = np.random.default_rng(3)
    return float(np.mean([coverage(packed, rng.choice(len(packed), picks, replace=False)) for _ in range(3)]))


def exact_neighbors(vectors: Floats, queries: Rows, k: int) -> Rows:
    """The k rows of the largest cosines with each of the `queries`, itself left out, shape (queries, k)."""
    asked = _normalised(vectors[queries])
    best = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.intp)
    for start in range(0, len(vectors), _PIECE):
        block = asked @ _normalised(vectors[start : start + _PIECE]).T
        inside = np.flatnonzero((queries >= start) & (queries < start + block.shape[1]))
        block[inside, queries[inside] - start] = -np.inf
        scores = np.concatenate([best, block], axis=1)
        rows = np.concatenate([found, np.broadcast_to(start + np.arange(block.shape[1]), block.shape)], axis=1)
        keep = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best, found = np.take_along_axis(scores, keep, axis=1), np.take_along_axis(rows, keep, axis=1)
    return found


def recall(found: Rows, exact: Rows) -> float:
    """Share of the `exact` neighbours, shape (queries, k), that are in the same row of `found`."""
    return float((found[:, :, None] == exact[:, None, :]).any(axis=1).mean())


def cosine_distances(a: Floats, b: Floats) -> NDArray[np.float64]:
    """1 - cosine of each row of `a` with that of `b`."""
    first, second = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    distances: NDArray[np.float64] = 1 - (first * second).sum(axis=1) / lengths
    return distances


def _normalised(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths
