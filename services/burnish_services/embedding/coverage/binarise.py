"""From a sample's pooled activations, shape (layers L, neurons F), to its active features.

    standardise, top_k   what stands out on this sample against what is usual: k neurons per layer; the default
    above_zero           a neuron with a positive activation; as a calibration picker for pruning does
    min_max_above        neuron coverage: scaled within its layer above a threshold (DeepXplore, arXiv 1705.06640)
    sections             k-multisection neuron coverage (KMNC of DeepGauge, arXiv 1803.07519)

Standardised top-k differs from DeepGauge's top-k coverage (TKNC) in that neurons are compared with themselves on
other samples: otherwise the same hub neurons are on top everywhere. The other rules are there to compare with: they
make sets that grow with a response's length, and a greedy cover then picks by length.

Everything raises ValueError for NaN and infinity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import MOST_FEATURES, MOST_NEURONS, Doubles, Floats

STEADY = 1e-4  # a neuron that deviates less never stands out: noise would decide
_SOFTENING = 1e-6


def default_k(width: int) -> int:
    """How many of a layer's `width` neurons count as active: one in 256, but 8 to 32, and never more than there are.

    32 of 8192 is what the method is meant for. Keeping the share, rather than the 32, keeps features about as rare on
    narrow models, and union coverage from being complete within a few hundred picks; at least 8 leave a row enough of
    them for gains to tell rows apart; at most 32 bound a row's size on wide ones. On a layer of 1536, 32 have been
    measured to tell samples apart as well (a mean Jaccard similarity of 0.01): ask for more where memory allows.
    """
    return min(width, max(8, min(32, width // 256)))


def standardise(pooled: Floats, mean: Doubles, std: Doubles) -> Doubles:
    """(pooled - mean) / (std + 1e-6), all of shape (L, F); -inf for neurons whose `std` is below 1e-4."""
    _check(pooled)
    scores: Doubles = (pooled - mean) / (std + _SOFTENING)
    scores[std < STEADY] = -np.inf
    return scores


def top_k(scores: Doubles | Floats, k: int) -> NDArray[np.uint16]:
    """The indices of the `k` largest of each layer, ascending within the layer, ties to the lower index.

    `scores` has shape (L, F), F at most 65536, k in [1, F], the result shape (L * k,): a row of `FeatureRows.packed`.
    -inf marks neurons that are never active. Raises ValueError where a layer has fewer than k others.
    """
    if scores.ndim != 2 or not 1 <= k <= scores.shape[1] <= MOST_NEURONS:
        raise ValueError(
            f"k is {k} for scores of shape {scores.shape}, expected a matrix, 1 <= k <= F <= {MOST_NEURONS}"
        )
    if np.isnan(scores).any() or (scores == np.inf).any():
        raise ValueError("expected finite scores, or -inf where a neuron is masked; found NaN or infinity")
    scores = np.asarray(scores, np.float64)
    width = scores.shape[1]
    least: Doubles = np.partition(scores, width - k, axis=1)[:, width - k, None]
    if np.isneginf(least).any():
        layer = int(np.argmax(np.isneginf(least)))
        live = np.count_nonzero(~np.isneginf(scores[layer]))
        raise ValueError(f"layer {layer} has {live} neurons that vary, {k} are wanted; lower k or calibrate on more")
    is_above, is_equal = scores > least, scores == least
    wanted = k - is_above.sum(axis=1, keepdims=True)
    is_active = is_above | (is_equal & (np.cumsum(is_equal, axis=1) <= wanted))
    return np.nonzero(is_active)[1].astype(np.uint16)


def above_zero(pooled: Floats) -> NDArray[np.uint32]:
    """The features, layer * F + neuron, of the neurons above zero. Pool the signed maximum over tokens, then one
    token is enough. In gated models nearly all are: coverage is complete after some twenty samples."""
    _check(pooled)
    return _features(pooled > 0)


def min_max_above(pooled: Floats, threshold: float) -> NDArray[np.uint32]:
    """The features, layer * F + neuron, of the neurons above `threshold`, in [0, 1), once the layer is scaled so that
    its smallest activation is 0 and its largest 1. A layer of equal activations has none."""
    _check(pooled)
    if not 0 <= threshold < 1:
        raise ValueError(f"the threshold is {threshold}, expected it in [0, 1)")
    doubles = pooled.astype(np.float64)
    low = doubles.min(axis=1, keepdims=True)
    span = doubles.max(axis=1, keepdims=True) - low
    return _features((doubles - low) / np.where(span > 0, span, 1.0) > threshold)


def sections(pooled: Floats, low: Doubles, high: Doubles, num_sections: int) -> NDArray[np.uint32]:
    """The section ⌈K (a - low) / (high - low)⌉, of K = `num_sections` numbered from 1, in which each neuron's
    activation a lies; `low` itself lies in the first. Values outside [low, high], and neurons with low = high, have
    none.

    `low` and `high` are ranges seen in calibration, shape (L, F). Section s of neuron (layer, neuron) is feature
    (layer * F + neuron) * K + s - 1, of L * F * K in all.
    """
    _check(pooled)
    if not 1 <= num_sections <= MOST_FEATURES // max(pooled.size, 1):
        raise ValueError(
            f"{num_sections} sections of {pooled.size} neurons, expected 1 to {MOST_FEATURES} features in all"
        )
    has_section = ((pooled >= low) & (pooled <= high) & (low < high)).ravel()
    neurons = np.flatnonzero(has_section)
    value, floor, ceiling = (array.ravel()[neurons].astype(np.float64) for array in (pooled, low, high))
    section = np.ceil(num_sections * ((value - floor) / (ceiling - floor))).astype(np.int64)
    return (neurons * num_sections + np.maximum(section, 1) - 1).astype(np.uint32)


def _features(is_active: NDArray[np.bool_]) -> NDArray[np.uint32]:
    return np.flatnonzero(is_active).astype(np.uint32)


def _check(pooled: Floats) -> None:
    if pooled.ndim != 2:
        raise ValueError(f"expected activations of shape (layers, neurons), got {pooled.shape}")
    if not np.isfinite(pooled).all():
        raise ValueError("expected finite activations, found NaN or infinity")
