"""The optimisers against exhaustive search, against each other and compiled against generic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from time import sleep
from typing import Any, Self
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish_services.embedding.coverage import compiled, greedy
from burnish_services.embedding.coverage.facility import FacilityLocation
from burnish_services.embedding.coverage.features import FeatureRows
from burnish_services.embedding.coverage.greedy import lazy, naive, partition, stochastic
from burnish_services.embedding.coverage.increments import CappedCount, DecayingCount, Increment, LogCount
from burnish_services.embedding.coverage.objectives import FeatureCoverage, Objective
from burnish_services.embedding.coverage.pool import Groups, Selection
from burnish_services.embedding.coverage.vectors import UnitVectors

Pick = Callable[..., Selection]

NUM_FEATURES = 8
INCREMENTS: list[Increment] = [LogCount(), CappedCount(1), CappedCount(2), DecayingCount(0.3)]
ALL = 1e-300  # an epsilon so small that every candidate is looked at


class Generic:
    """A feature coverage that the optimisers do not recognise as one."""

    def __init__(self, coverage: FeatureCoverage) -> None:
        self._coverage = coverage

    @property
    def num_rows(self) -> int:
        return self._coverage.num_rows

    @property
    def value(self) -> float:
        return self._coverage.value

    def gains(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return self._coverage.gains(rows)

    def add(self, row: int) -> None:
        self._coverage.add(row)

    def copy(self) -> Self:
        return type(self)(self._coverage.copy())


@dataclass(frozen=True)
class Case:
    """A small problem with many ties."""

    sets: list[set[int]]
    increment: Increment
    weights: NDArray[np.float64] | None
    quality: NDArray[np.float64]
    quality_weight: float
    start: list[int]
    groups: Groups | None
    budget: int

    def objective(self) -> FeatureCoverage:
        return FeatureCoverage(
            ragged(self.sets, NUM_FEATURES),
            increment=self.increment,
            weights=self.weights,
            quality=self.quality,
            quality_weight=self.quality_weight,
        )

    @property
    def limits(self) -> dict[str, Any]:
        return {"start": self.start, "groups": self.groups}


@st.composite
def problems(draw: st.DrawFn, *, most: int = 12) -> Case:
    sets = draw(st.lists(st.sets(st.integers(0, NUM_FEATURES - 1)), max_size=most))
    n = len(sets)
    start = draw(st.lists(st.integers(0, n - 1), max_size=3, unique=True)) if n else []
    groups = None
    if draw(st.booleans()):
        of_row = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
        groups = Groups(np.array(of_row, np.intp), np.array(draw(st.tuples(*[st.integers(0, 4)] * 3))))
    return Case(
        sets,
        draw(st.sampled_from(INCREMENTS)),
        draw(st.sampled_from([None, np.array([0, 0.1, 0.2, 0.5, 1, 1, 2, 7])])),
        np.array(draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n))),
        draw(st.sampled_from([0.0, 0.5, 3.0])),
        start,
        groups,
        draw(st.integers(0, most + 2)),
    )


def ragged(sets: list[set[int]], num_features: int) -> FeatureRows:
    ids = np.array([feature for one in sets for feature in sorted(one)], np.uint32)
    return FeatureRows.ragged(ids, np.cumsum([0, *map(len, sets)], dtype=np.int64), num_features)


def random_rows(num_rows: int, *, layers: int = 4, k: int = 6, width: int = 64, seed: int = 0) -> FeatureRows:
    """Features as frequent as words are: a few everywhere, most of them rare."""
    rng = np.random.default_rng(seed)
    keys = rng.exponential(size=(num_rows, layers, width)) * np.arange(1, width + 1) ** 0.7
    ids = np.sort(np.argsort(keys, axis=2)[:, :, :k], axis=2).astype(np.uint16)
    return FeatureRows.packed(ids.reshape(num_rows, layers * k), num_layers=layers, width=width)


def same(one: Selection, other: Selection) -> bool:
    return one.rows.tolist() == other.rows.tolist() and one.gains.tolist() == other.gains.tolist()


@settings(max_examples=150, deadline=None)
@given(case=problems())
def test_lazy_is_naive_and_compiled_is_generic(case: Case) -> None:
    expected = naive(case.objective(), case.budget, **case.limits)
    with mock.patch.object(compiled, "_PIECE", 3), mock.patch.object(greedy, "_PIECE", 2):
        objective, plain = case.objective(), Generic(case.objective())
        assert same(lazy(objective, case.budget, **case.limits), expected)
        assert same(lazy(plain, case.budget, **case.limits), expected)
        assert np.flatnonzero(objective.state.selected).tolist() == sorted([*case.start, *expected.rows.tolist()])
        assert objective.value == plain.value


@settings(max_examples=150, deadline=None)
@given(case=problems(), epsilon=st.sampled_from([ALL, 0.05, 0.3, 0.9]), seed=st.integers(0, 9))
def test_stochastic_is_the_same_compiled_and_generic_and_naive_with_all_looked_at(
    case: Case, epsilon: float, seed: int
) -> None:
    with mock.patch.object(compiled, "_PIECE", 7), mock.patch.object(greedy, "_PIECE", 2):
        fast = stochastic(case.objective(), case.budget, epsilon=epsilon, seed=seed, **case.limits)
        plain = stochastic(Generic(case.objective()), case.budget, epsilon=epsilon, seed=seed, **case.limits)
    assert same(fast, plain)
    expected = naive(case.objective(), case.budget, **case.limits)
    assert len(fast.rows) == len(expected.rows)
    assert len(set(fast.rows.tolist()) - set(case.start)) == len(fast.rows)
    if epsilon == ALL:
        assert same(fast, expected)


@settings(max_examples=60, deadline=None)
@given(case=problems(), shards=st.integers(1, 4))
def test_partition_is_the_same_compiled_and_generic_and_lazy_on_one_shard(case: Case, shards: int) -> None:
    objective = case.objective()
    found = partition(objective, case.budget, shards=shards, **case.limits)
    assert same(found, partition(Generic(case.objective()), case.budget, shards=shards, **case.limits))
    assert np.flatnonzero(objective.state.selected).tolist() == sorted([*case.start, *found.rows.tolist()])
    if shards == 1:
        assert same(found, naive(case.objective(), case.budget, **case.limits))


@settings(max_examples=80, deadline=None)
@given(case=problems(most=9), budget=st.integers(1, 4))
def test_greedy_reaches_its_share_of_the_optimum(case: Case, budget: int) -> None:
    best = 0.0
    for rows in combinations(range(len(case.sets)), min(budget, len(case.sets))):
        objective = case.objective()
        for row in rows:
            objective.add(row)
        best = max(best, objective.value)
    objective = case.objective()
    lazy(objective, budget)
    assert objective.value >= (1 - 1 / np.e) * best - 1e-9


@settings(max_examples=80, deadline=None)
@given(sets=st.lists(st.sets(st.integers(0, NUM_FEATURES - 1)), max_size=12), budget=st.integers(0, 12))
def test_capped_at_one_it_is_the_textbook_set_cover(sets: list[set[int]], budget: int) -> None:
    covered: set[int] = set()
    picks: list[int] = []
    gains: list[int] = []
    while len(picks) < min(budget, len(sets)):
        row = max(
            (row for row in range(len(sets)) if row not in picks), key=lambda row: (len(sets[row] - covered), -row)
        )
        gains.append(len(sets[row] - covered))
        picks.append(row)
        covered |= sets[row]
    found = lazy(FeatureCoverage(ragged(sets, NUM_FEATURES), increment=CappedCount(1)), budget)
    assert (found.rows.tolist(), found.gains.tolist()) == (picks, gains)


@settings(max_examples=60, deadline=None)
@given(case=problems(), seed=st.integers(0, 99))
def test_the_order_of_rows_matters_to_ties_alone(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = len(case.sets)
    quality, shuffle = rng.random(n), rng.permutation(n)  # no two rows tie

    def picked(order: NDArray[np.intp]) -> list[int]:
        rows = ragged([case.sets[row] for row in order], NUM_FEATURES)
        objective = FeatureCoverage(
            rows, increment=case.increment, weights=case.weights, quality=quality[order], quality_weight=0.5
        )
        return order[lazy(objective, case.budget).rows].tolist()

    assert picked(shuffle) == picked(np.arange(n))


@settings(max_examples=60, deadline=None)
@given(case=problems(), more=st.integers(0, 6))
def test_selecting_on_from_a_selection_is_selecting_more_at_once(case: Case, more: int) -> None:
    first = lazy(case.objective(), case.budget, **case.limits)
    groups = case.groups
    if groups is not None:
        used = np.bincount(groups.of_row[first.rows], minlength=3)
        groups = Groups(groups.of_row, groups.budgets - used)
    then = lazy(case.objective(), more, start=[*case.start, *first.rows.tolist()], groups=groups)
    # Where groups ended the first selection early there may be nothing left to go on with.
    at_once = lazy(case.objective(), len(first.rows) + more, **case.limits)
    assert [*first.rows.tolist(), *then.rows.tolist()] == at_once.rows.tolist()
    assert [*first.gains.tolist(), *then.gains.tolist()] == at_once.gains.tolist()


def test_every_prefix_is_the_selection_of_a_smaller_budget_with_falling_gains() -> None:
    rows = random_rows(200)
    whole = lazy(FeatureCoverage(rows), 60)
    assert lazy(FeatureCoverage(rows), 25).rows.tolist() == whole.rows[:25].tolist()
    assert (np.diff(whole.gains) <= 0).all()
    objective = FeatureCoverage(rows)
    lazy(objective, 60)
    assert whole.gains.sum() == pytest.approx(objective.value, rel=1e-6)


def test_lazy_is_naive_where_hundreds_tie() -> None:
    rows, quality = random_rows(3000, layers=1, k=1, width=2), np.random.default_rng(6).integers(0, 4, 3000) / 4

    def objective() -> FeatureCoverage:
        return FeatureCoverage(rows, quality=quality, quality_weight=1.0)

    assert same(lazy(objective(), 50), naive(objective(), 50))


def test_packed_and_ragged_rows_are_picked_alike() -> None:
    packed = random_rows(150)
    features = packed.offsets + packed.ids.reshape(150, -1)
    again = ragged([set(row) for row in features.tolist()], packed.num_features)
    assert same(lazy(FeatureCoverage(packed), 40), lazy(FeatureCoverage(again), 40))
    assert same(stochastic(FeatureCoverage(packed), 40), stochastic(FeatureCoverage(again), 40))


def test_a_second_copy_adds_less_and_comes_later() -> None:
    sets = [{0, 1, 2}, {3, 4}, {0, 1, 2}, {5}]
    found = lazy(FeatureCoverage(ragged(sets, 6)), 4)
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert found.gains[2] < found.gains[0]
    capped = lazy(FeatureCoverage(ragged(sets, 6), increment=CappedCount(1)), 4)
    assert capped.rows.tolist() == [0, 1, 3, 2]
    assert capped.gains[3] == 0


@pytest.mark.parametrize("pick", [naive, lazy])
def test_all_planted_clusters_come_before_repeats(pick: Pick) -> None:
    rng = np.random.default_rng(8)
    cluster = np.repeat(np.arange(10), [80, 40, 20, 10, 5, 5, 4, 3, 2, 1])
    # A row has 12 of its cluster's 16 features, and 2 that any row may have.
    own = np.sort(np.argsort(rng.random((170, 16)), axis=1)[:, :12], axis=1) + cluster[:, None] * 16
    common = np.sort(np.argsort(rng.random((170, 9)), axis=1)[:, :2], axis=1) + 160
    rows = FeatureRows.packed(np.hstack([own, common]).astype(np.uint16), num_layers=1, width=169)
    picked = pick(FeatureCoverage(rows), 20).rows
    assert set(cluster[picked[:10]].tolist()) == set(range(10))
    assert len(set(cluster[rng.choice(170, 10, replace=False)].tolist())) < 10


def test_groups_keep_to_their_budgets_and_use_them_up() -> None:
    rows = random_rows(300)
    groups = Groups(np.arange(300) % 3, np.array([5, 0, 40]))
    for pick in (lazy, stochastic, naive):
        found = pick(FeatureCoverage(rows), 30, groups=groups)
        sizes = np.bincount(found.rows % 3, minlength=3)
        assert (sizes <= groups.budgets).all()
        assert len(found.rows) == 30
        assert len(pick(FeatureCoverage(rows), 60, groups=groups).rows) == 45


def test_quality_leads_where_it_weighs_enough() -> None:
    rows, quality = random_rows(100), np.random.default_rng(3).random(100)
    found = lazy(FeatureCoverage(rows, quality=quality, quality_weight=1e6), 20)
    assert found.rows.tolist() == np.argsort(-quality)[:20].tolist()


@pytest.mark.parametrize("increment", [LogCount(), CappedCount(4)])
def test_stochastic_and_partition_come_near_to_lazy(increment: Increment) -> None:
    rows = random_rows(2000)

    def value(pick: Pick, **options: Any) -> float:
        objective = FeatureCoverage(rows, increment=increment)
        assert len(pick(objective, 200, **options).rows) == 200
        return objective.value

    best = value(lazy)
    assert 0.95 * best <= value(stochastic) <= 1.001 * best
    assert 0.95 * best <= value(partition, shards=4) <= 1.001 * best


def test_stochastic_depends_on_its_seed_alone() -> None:
    rows = random_rows(500)
    one, two, other = (stochastic(FeatureCoverage(rows), 50, seed=seed) for seed in (1, 1, 2))
    assert same(one, two)
    assert not same(one, other)


def test_stochastic_looks_at_every_row_equally_often() -> None:
    # Rows of equal worth: of a sample the lowest row is picked, so the first pick shows what was in it.
    rows = ragged([{0}] * 10, 1)
    firsts = [int(stochastic(FeatureCoverage(rows), 5, epsilon=0.7, seed=seed).rows[0]) for seed in range(2000)]
    assert np.bincount(firsts, minlength=10) / 2000 == pytest.approx(0.1, abs=0.03)  # samples of one row


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 25), d=st.integers(1, 3), seed=st.integers(0, 2**32 - 1), budget=st.integers(0, 27))
def test_facility_location_lazily_is_facility_location(n: int, d: int, seed: int, budget: int) -> None:
    # Few small whole numbers: duplicates, zeros and ties abound.
    vectors = UnitVectors(np.random.default_rng(seed).integers(-2, 3, (n, d)).astype(np.float32))
    expected = naive(FacilityLocation(vectors), budget)
    assert same(lazy(FacilityLocation(vectors), budget), expected)
    assert same(stochastic(FacilityLocation(vectors), budget, epsilon=ALL), expected)
    assert same(partition(FacilityLocation(vectors), budget, shards=1), expected)


OPTIMISERS: list[Pick] = [
    naive,
    lazy,
    stochastic,
    lambda *args, **options: partition(*args, shards=3, **options),
]


@pytest.mark.parametrize("pick", OPTIMISERS)
@pytest.mark.parametrize("wrap", [lambda coverage: coverage, Generic])
def test_any_budget_and_few_rows(pick: Pick, wrap: Callable[[FeatureCoverage], Objective]) -> None:
    for n, budget in [(0, 0), (0, 3), (1, 0), (1, 1), (1, 3), (5, 0), (5, 5), (5, 99)]:
        found = pick(wrap(FeatureCoverage(random_rows(n))), budget)
        assert len(found.rows) == len(found.gains) == min(n, budget)
        assert len(set(found.rows.tolist())) == len(found.rows)
    assert pick(wrap(FeatureCoverage(random_rows(5))), 9, start=[0, 1, 2, 3, 4]).rows.tolist() == []
    assert pick(wrap(FeatureCoverage(random_rows(5))), 9, start=[3, 0, 4, 2]).rows.tolist() == [1]


@pytest.mark.parametrize("pick", OPTIMISERS)
@pytest.mark.parametrize("wrap", [lambda coverage: coverage, Generic])
def test_gives_up_when_asked(pick: Pick, wrap: Callable[[FeatureCoverage], Objective]) -> None:
    check = mock.Mock(side_effect=[None, None, InterruptedError("enough")])
    # Of the 3000 rows few are better than others, so that laziness saves little work.
    objective = wrap(FeatureCoverage(random_rows(3000, layers=1, k=2, width=8)))
    with (
        mock.patch.object(compiled, "_PIECE", 50),
        mock.patch.object(greedy, "_PIECE", 50),
        mock.patch.object(greedy, "_POLL", 1e-4),
        pytest.raises(InterruptedError, match="enough"),
    ):
        pick(objective, 3000, check=check)
    assert check.call_count == 3


def test_shards_stop_when_another_thread_gives_up() -> None:
    asked = 0

    class Counting(Generic):
        def gains(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
            nonlocal asked
            asked += len(rows)
            sleep(1e-3)
            return super().gains(rows)

    with mock.patch.object(greedy, "_PIECE", 1), mock.patch.object(greedy, "_POLL", 1e-3), pytest.raises(KeyError):
        partition(Counting(FeatureCoverage(random_rows(500))), 100, shards=2, check=mock.Mock(side_effect=KeyError))
    assert asked < 250


def test_a_shard_that_fails_is_heard_of() -> None:
    class Broken(Generic):
        def gains(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        partition(Broken(FeatureCoverage(random_rows(20))), 5, shards=4)


@pytest.mark.parametrize("pick", OPTIMISERS)
@pytest.mark.parametrize(
    ("budget", "limits", "complaint"),
    [
        (-1, {}, "budget is -1"),
        (1, {"start": [5]}, "start has rows 5 to 5"),
        (1, {"start": [-1]}, "start has rows -1"),
        (1, {"start": [1, 1]}, "more than once"),
        (1, {"groups": Groups(np.zeros(4, np.intp), np.array([1]))}, r"\(4,\)"),
    ],
)
def test_refuses_what_does_not_fit(pick: Pick, budget: int, limits: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        pick(FeatureCoverage(random_rows(5)), budget, **limits)


def test_refuses_groups_without_budgets_and_parameters_out_of_range() -> None:
    cases = [([0, 2], [1, 1], "groups from 0 to 2"), ([-1, 0], [1], "groups from -1"), ([0], [-1], "budget is -1")]
    for of_row, budgets, complaint in cases:
        with pytest.raises(ValueError, match=complaint):
            Groups(np.array(of_row), np.array(budgets))
    for epsilon in (0.0, 1.0):
        with pytest.raises(ValueError, match="epsilon"):
            stochastic(FeatureCoverage(random_rows(5)), 1, epsilon=epsilon)
    with pytest.raises(ValueError, match="0 shards"):
        partition(FeatureCoverage(random_rows(5)), 1, shards=0)
