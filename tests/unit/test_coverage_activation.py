"""Moments of neurons, and the rules that say which of them are active, against literal loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish_services.embedding.coverage.binarise import (
    above_zero,
    default_k,
    min_max_above,
    sections,
    standardise,
    top_k,
)
from burnish_services.embedding.coverage.features import FeatureRows
from burnish_services.embedding.coverage.moments import BinnedMoments, Moments

Floats = NDArray[np.float32]


def whole_numbers(seed: int, shape: tuple[int, ...] = (2, 9)) -> Floats:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    center=st.sampled_from([0.0, 1e4]),
    data=st.data(),
)
def test_moments_are_the_same_in_any_split_and_order(
    seed: int, cuts: list[int], center: float, data: st.DataObject
) -> None:
    samples = (center + np.random.default_rng(seed).standard_normal((40, 2, 3))).astype(np.float32)
    parts = []
    for batch in np.split(samples, sorted(cuts)):
        part = Moments.empty(2, 3)
        part.update(batch[: len(batch) // 2])
        part.update(batch[len(batch) // 2 :])
        parts.append(part)
    moments = Moments.empty(2, 3)
    for part in data.draw(st.permutations(parts)):
        moments.merge(part)
    doubles = samples.astype(np.float64)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, doubles.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.std, doubles.std(axis=0), rtol=1e-10)
    np.testing.assert_array_equal(moments.low, samples.min(axis=0))
    np.testing.assert_array_equal(moments.high, samples.max(axis=0))


def test_moments_of_nothing_and_of_one() -> None:
    moments = Moments.empty(1, 2)
    moments.update(np.empty((0, 1, 2), np.float32))
    moments.merge(Moments.empty(1, 2))
    assert moments.count == 0
    with pytest.raises(ValueError, match="before the first sample"):
        _ = moments.std
    moments.update(np.array([[[3.0, -1.0]]], np.float32))
    assert moments.mean.tolist() == moments.low.tolist() == moments.high.tolist() == [[3.0, -1.0]]
    assert moments.std.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_moments_refuse_what_is_not_finite_and_stay_as_they_were(bad: float) -> None:
    moments = Moments.empty(1, 2)
    moments.update(np.ones((3, 1, 2), np.float32))
    with pytest.raises(ValueError, match="finite"):
        moments.update(np.array([[[1.0, 2.0]], [[bad, 2.0]]], np.float32))
    assert (moments.count, moments.mean.tolist()) == (3, [[1.0, 1.0]])


def test_moments_refuse_other_shapes() -> None:
    moments = Moments.empty(1, 2)
    with pytest.raises(ValueError, match=r"\(n, 1, 2\)"):
        moments.update(np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        moments.merge(Moments.empty(2, 2))


def test_bins_keep_short_and_long_samples_apart() -> None:
    binned, other = (BinnedMoments([10, 20], 1, 1) for _ in range(2))
    binned.update(np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1), [9, 10, 19, 20])
    other.update(np.array([[[6.0]]], np.float32), [500])
    binned.merge(other)
    assert [(part.count, part.mean.item()) for part in binned.bins] == [(1, 1.0), (2, 2.5), (2, 5.0)]
    assert [binned.of(length).count for length in (0, 9, 10, 20)] == [1, 1, 2, 2]
    assert len(BinnedMoments([], 1, 1).bins) == 1
    with pytest.raises(ValueError, match="ascend"):
        BinnedMoments([10, 10], 1, 1)
    with pytest.raises(ValueError, match="1 lengths for 2 samples"):
        binned.update(np.ones((2, 1, 1), np.float32), [1])
    with pytest.raises(ValueError, match="binned at"):
        binned.merge(BinnedMoments([10], 1, 1))


def test_standardised_scores_mask_neurons_that_do_not_vary() -> None:
    pooled = np.array([[1.0, 5.0, 2.0]], np.float32)
    scores = standardise(pooled, np.array([[0.0, 1.0, 2.0]]), np.array([[2.0, 9e-5, 1e-4]]))
    np.testing.assert_allclose(scores, [[1 / (2 + 1e-6), -np.inf, 0.0]])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 9))
def test_top_k_takes_the_largest_and_among_equals_the_first(seed: int, k: int) -> None:
    scores = whole_numbers(seed).astype(np.float64)
    expected = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :k], axis=1)
    found = top_k(scores, k)
    assert found.dtype == np.uint16
    assert found.tolist() == expected.ravel().tolist()
    assert FeatureRows.packed(found[None], num_layers=2, width=9).num_rows == 1


def test_top_k_never_takes_a_masked_neuron() -> None:
    scores = np.array([[1.0, -np.inf, -5.0], [0.0, 1.0, 2.0]])
    assert top_k(scores, 2).tolist() == [0, 2, 1, 2]
    with pytest.raises(ValueError, match="layer 0 has 2 neurons that vary, 3 are wanted"):
        top_k(scores, 3)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k is {k}"):
            top_k(scores, k)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            top_k(np.array([[bad, 1.0]]), 1)


def test_k_is_a_share_of_the_layer_within_bounds() -> None:
    assert [default_k(width) for width in (4, 8, 1536, 4096, 8192, 14336)] == [4, 8, 8, 16, 32, 32]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([0.0, 0.25, 0.5, 0.99]))
def test_threshold_rules_against_literal_loops(seed: int, threshold: float) -> None:
    pooled = whole_numbers(seed)
    layers = pooled.tolist()
    assert above_zero(pooled).tolist() == [
        layer * 9 + neuron for layer in range(2) for neuron in range(9) if layers[layer][neuron] > 0
    ]
    scaled = []
    for layer in range(2):
        low, high = min(layers[layer]), max(layers[layer])
        for neuron, value in enumerate(layers[layer]):
            if high > low and (value - low) / (high - low) > threshold:
                scaled.append(layer * 9 + neuron)
    found = min_max_above(pooled, threshold)
    assert found.dtype == np.uint32
    assert found.tolist() == scaled


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_sections=st.integers(1, 12))
def test_sections_against_a_literal_loop(seed: int, num_sections: int) -> None:
    pooled = whole_numbers(seed)
    low, span = whole_numbers(seed + 1).astype(np.float64), np.abs(whole_numbers(seed + 2)).astype(np.float64)
    high = low + span
    expected = []
    for neuron, (a, lo, hi) in enumerate(zip(pooled.ravel(), low.ravel(), high.ravel(), strict=True)):
        if lo <= a <= hi and lo < hi:
            section = max(math.ceil(num_sections * ((float(a) - lo) / (hi - lo))), 1)
            expected.append(neuron * num_sections + section - 1)
    found = sections(pooled, low, high, num_sections)
    assert found.dtype == np.uint32
    assert found.tolist() == expected
    assert found.max(initial=0) < pooled.size * num_sections


def test_sections_fill_the_range_seen_in_calibration() -> None:
    moments = Moments.empty(1, 1)
    moments.update(np.array([0.0, 4.0], np.float32).reshape(2, 1, 1))
    found = [
        sections(np.array([[value]], np.float32), moments.low, moments.high, 4).tolist()
        for value in (-0.1, 0.0, 0.5, 1.0, 1.1, 4.0, 4.1)
    ]
    assert found == [[], [0], [0], [0], [1], [3], []]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "rule",
    [
        lambda pooled: standardise(pooled, np.zeros((1, 2)), np.ones((1, 2))),
        above_zero,
        lambda pooled: min_max_above(pooled, 0.5),
        lambda pooled: sections(pooled, np.zeros((1, 2)), np.ones((1, 2)), 3),
    ],
)
def test_every_rule_refuses_what_is_not_finite(rule: Callable[[Floats], Any], bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        rule(np.array([[1.0, bad]], np.float32))
    with pytest.raises(ValueError, match="shape"):
        rule(np.array([1.0, 2.0], np.float32))


def test_refuses_thresholds_and_sections_out_of_range() -> None:
    pooled = np.ones((1, 2), np.float32)
    with pytest.raises(ValueError, match="threshold"):
        min_max_above(pooled, 1.0)
    for num_sections in (0, 2**31 + 1):
        with pytest.raises(ValueError, match="sections"):
            sections(pooled, np.zeros((1, 2)), np.ones((1, 2)), num_sections)
