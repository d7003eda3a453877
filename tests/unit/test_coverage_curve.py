"""Coverage curves, and the guards against picking by length or by hubs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from burnish_services.embedding.coverage.curve import coverage_curve, random_curves
from burnish_services.embedding.coverage.features import FeatureRows
from burnish_services.embedding.coverage.greedy import lazy
from burnish_services.embedding.coverage.guards import hub_share, length_rank_correlation
from burnish_services.embedding.coverage.objectives import FeatureCoverage
from burnish_services.embedding.coverage.pool import Groups


def random_rows(num_rows: int, seed: int = 0) -> FeatureRows:
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(64, dtype=np.uint16), (num_rows, 1)), axis=1)[:, :5]
    return FeatureRows.packed(np.sort(ids, axis=1), num_layers=1, width=64)


def test_a_curve_counts_what_each_prefix_covers() -> None:
    rows = FeatureRows.packed(np.array([[0, 1], [1, 2], [0, 1], [3, 4]], np.uint16), num_layers=1, width=6)
    objective = FeatureCoverage(rows)
    order = np.array([1, 0, 2])
    curve = coverage_curve(objective, order)
    log2, log3, log4 = math.log(2), math.log(3), math.log(4)
    assert curve.sizes.tolist() == [0, 1, 2, 3]
    assert curve.covered.tolist() == [0, 2, 3, 3]
    np.testing.assert_allclose(curve.values, [0, 2 * log2, 2 * log2 + log3, log2 + log3 + log4])
    assert objective.value == 0
    objective.add(3)
    assert coverage_curve(objective, order).covered.tolist() == [2, 4, 5, 5]


def test_a_long_order_is_looked_at_a_hundred_times() -> None:
    curve = coverage_curve(FeatureCoverage(random_rows(777)), np.arange(777))
    assert (len(curve.sizes), curve.sizes[0], curve.sizes[-1]) == (101, 0, 777)
    assert set(np.diff(curve.sizes).tolist()) == {7, 8}
    assert coverage_curve(FeatureCoverage(random_rows(3)), np.array([], np.intp)).sizes.tolist() == [0]


def test_greedy_covers_more_than_chance() -> None:
    rows = random_rows(300)
    picked = lazy(FeatureCoverage(rows), 30, start=[4, 5])
    fresh = FeatureCoverage(rows)
    fresh.add(4)
    fresh.add(5)
    curve = coverage_curve(fresh, picked.rows)
    chance = random_curves(fresh, 30, seed=1)
    assert len(chance) == 3
    assert all((one.values < curve.values)[5:].all() for one in chance)
    np.testing.assert_allclose(curve.values[-1] - fresh.value, picked.gains.sum(), rtol=1e-6)
    again = random_curves(fresh, 30, seed=1)
    assert [one.values.tolist() for one in again] == [one.values.tolist() for one in chance]
    assert len({float(one.values[5]) for one in chance}) > 1
    with pytest.raises(ValueError, match="299 rows are wanted, there are 298"):
        random_curves(fresh, 299)


def test_random_choices_keep_to_the_budgets_of_groups() -> None:
    # Rows of group 0 have feature 0 and no other, those of group 1 one of their own each.
    ids = np.concatenate([np.zeros(40, np.uint16), np.arange(1, 41, dtype=np.uint16)])
    objective = FeatureCoverage(FeatureRows.packed(ids[:, None], num_layers=1, width=64))
    groups = Groups(np.repeat([0, 1], 40), np.array([80, 3]))
    chance = random_curves(objective, 30, groups=groups)
    assert all(curve.sizes[-1] == 30 and curve.covered[-1] <= 4 for curve in chance)
    assert all(curve.covered[-1] == 4 for curve in random_curves(objective, 43, groups=groups)), "all the room there is"
    with pytest.raises(ValueError, match="44 rows are wanted, there are 43"):
        random_curves(objective, 44, groups=groups)


def test_a_curve_gives_up_when_asked() -> None:
    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        random_curves(FeatureCoverage(random_rows(3)), 2, check=check)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=2, max_size=20), seed=st.integers(0, 99))
def test_length_correlates_with_rank_as_spearman_says(lengths: list[int], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(lengths))[: max(2, len(lengths) // 2)]
    picked = np.array(lengths)[order]
    found = length_rank_correlation(np.array(lengths), order)
    if len(set(picked.tolist())) == 1:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(picked, np.arange(len(picked))).statistic, abs=1e-12)


def test_the_longest_first_correlate_at_minus_one() -> None:
    lengths = np.array([5.5, 9.0, 1.0, 7.0])
    assert length_rank_correlation(lengths, np.array([1, 3, 0, 2])) == pytest.approx(-1)
    assert length_rank_correlation(lengths, np.array([1])) is None


def test_hubs_are_the_most_frequent_hundredth() -> None:
    frequencies = np.ones(200, np.intp)
    assert hub_share(frequencies) == pytest.approx(0.01)
    frequencies[[7, 100]] = 101
    assert hub_share(frequencies) == pytest.approx(202 / 400)
    assert hub_share(np.array([0, 3, 1])) == pytest.approx(3 / 4)
    assert hub_share(np.zeros(5, np.intp)) == 0
