"""Gains and values of the objectives against their formulas."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish_services.embedding.coverage import vectors as vectors_module
from burnish_services.embedding.coverage.facility import FacilityLocation
from burnish_services.embedding.coverage.features import FeatureRows
from burnish_services.embedding.coverage.increments import CappedCount, DecayingCount, Increment, LogCount
from burnish_services.embedding.coverage.objectives import FeatureCoverage
from burnish_services.embedding.coverage.vectors import UnitVectors

INCREMENTS = [LogCount(), CappedCount(1), CappedCount(2), DecayingCount(0.4)]


def ragged(sets: list[set[int]], num_features: int) -> FeatureRows:
    ids = np.array([feature for one in sets for feature in sorted(one)], np.uint32)
    return FeatureRows.ragged(ids, np.cumsum([0, *map(len, sets)], dtype=np.int64), num_features)


def phi(increment: Increment, count: int) -> float:
    match increment:
        case CappedCount(most):
            return min(count, most)
        case DecayingCount(decay):
            return 1 - decay**count
        case _:
            return math.log(1 + count)


@settings(max_examples=100, deadline=None)
@given(
    sets=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=7),
    increment=st.sampled_from(INCREMENTS),
    is_weighted=st.booleans(),
    quality_weight=st.sampled_from([0.0, 0.3]),
    data=st.data(),
)
def test_gains_and_values_are_those_of_the_formula(
    sets: list[set[int]], increment: Increment, is_weighted: bool, quality_weight: float, data: st.DataObject
) -> None:
    weights = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 0.1]) if is_weighted else np.ones(6)
    quality = np.linspace(0, 1, len(sets))
    objective = FeatureCoverage(
        ragged(sets, 6),
        increment=increment,
        weights=weights if is_weighted else None,
        quality=quality,
        quality_weight=quality_weight,
    )

    def literal(chosen: list[int]) -> float:
        counts = [sum(feature in sets[row] for row in chosen) for feature in range(6)]
        covered = math.fsum(w * phi(increment, c) for w, c in zip(weights.tolist(), counts, strict=True))
        return covered + quality_weight * math.fsum(quality[chosen])

    chosen: list[int] = []
    for row in data.draw(st.permutations(range(len(sets)))):
        others = [other for other in range(len(sets)) if other not in chosen]
        rises = [literal([*chosen, other]) - literal(chosen) for other in others]
        np.testing.assert_allclose(objective.gains(np.array(others)), rises, rtol=1e-6, atol=1e-12)
        objective.add(row)
        chosen.append(row)
        assert objective.value == pytest.approx(literal(chosen), rel=1e-12, abs=1e-12)
        assert objective.num_covered == len(set().union(*(sets[one] for one in chosen)))


def test_a_copy_goes_its_own_way() -> None:
    objective = FeatureCoverage(ragged([{0, 1}, {1, 2}, {3}], 4))
    objective.add(0)
    twin = objective.copy()
    before, gains = objective.value, objective.gains(np.array([1, 2])).tolist()
    twin.add(1)
    assert twin.value > before
    assert (objective.value, objective.gains(np.array([1, 2])).tolist()) == (before, gains)
    objective.add(1)
    assert objective.value == twin.value


def test_equal_rows_tie_exactly_and_a_second_copy_is_worth_less() -> None:
    rng = np.random.default_rng(5)
    ids = np.sort(rng.permuted(np.tile(np.arange(100, dtype=np.uint16), (6, 1)), axis=1)[:, :33], axis=1)
    ids[3] = ids[1]
    objective = FeatureCoverage(FeatureRows.packed(ids, num_layers=1, width=100), weights=rng.random(100))
    for row in (0, 2, 4):
        objective.add(row)
        first, second = objective.gains(np.array([1, 3])).tolist()
        assert first == second
    before = objective.gains(np.array([3]))[0]
    objective.add(1)
    assert objective.gains(np.array([3]))[0] < before


@pytest.mark.parametrize("kind", ["features", "vectors"])
def test_refuses_to_add_a_row_twice_and_qualities_out_of_range(kind: str) -> None:
    def objective(quality: list[float] | None = None, weight: float = 0.0) -> FeatureCoverage | FacilityLocation:
        array = None if quality is None else np.array(quality)
        if kind == "features":
            return FeatureCoverage(ragged([{0}, {1}], 2), quality=array, quality_weight=weight)
        return FacilityLocation(UnitVectors(np.eye(2, dtype=np.float32)), quality=array, quality_weight=weight)

    twice = objective()
    twice.add(1)
    with pytest.raises(ValueError, match="row 1 is selected already"):
        twice.add(1)
    for quality, weight, complaint in [
        ([0.5], 1.0, r"shape \(1,\)"),
        ([0.5, 1.1], 1.0, r"\[0, 1\]"),
        ([0.5, math.nan], 1.0, r"\[0, 1\]"),
        ([0.5, 1.0], -1.0, "-1.0"),
        ([0.5, 1.0], math.nan, "nan"),
        (None, 1.0, "no quality"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            objective(quality, weight)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 1e39]])
def test_refuses_weights_that_are_no_weights(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        FeatureCoverage(ragged([{0}, {1}], 2), weights=np.array(weights))


def dense_cosines(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    doubles = vectors.astype(np.float64)
    unit = doubles / np.maximum(np.linalg.norm(doubles, axis=1, keepdims=True), 1e-300)
    return unit @ unit.T


def test_facility_location_against_the_dense_formula() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((40, 5), dtype=np.float32)
    vectors[7], vectors[30] = 0, vectors[3]
    cosines, quality = dense_cosines(vectors), rng.random(40)

    def literal(chosen: list[int]) -> float:
        nearest = np.maximum(cosines[:, chosen].max(axis=1, initial=0), 0)
        return float(nearest.sum() + 0.7 * quality[chosen].sum())

    with mock.patch.object(vectors_module, "TILE", 7):
        objective = FacilityLocation(UnitVectors(vectors), quality=quality, quality_weight=0.7)
        chosen: list[int] = []
        for row in (7, 3, 12, 0, 39):
            others = [other for other in range(40) if other not in chosen]
            rises = [literal([*chosen, other]) - literal(chosen) for other in others]
            np.testing.assert_allclose(objective.gains(np.array(others)), rises, rtol=0, atol=1e-5)
            # Alone or with others, first or last in a block: the same to the last bit.
            alone = [float(objective.gains(np.array([other]))[0]) for other in others]
            assert alone == objective.gains(np.array(others)).tolist()
            twin = objective.copy()
            twin.add(row)
            assert objective.value == pytest.approx(literal(chosen), abs=1e-5)
            objective.add(row)
            chosen.append(row)
            assert objective.value == twin.value == pytest.approx(literal(chosen), abs=1e-5)


def test_equal_vectors_tie_exactly_for_facility_location() -> None:
    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((50, 33), dtype=np.float32)
    vectors[41] = vectors[8]
    vectors[20] = 2 * vectors[8]
    with mock.patch.object(vectors_module, "TILE", 11):
        objective = FacilityLocation(UnitVectors(vectors))
        gains = objective.gains(np.arange(50))
        assert gains[8] == gains[41] == gains[20]
        objective.add(8)
        assert objective.gains(np.array([41]))[0] == 0
