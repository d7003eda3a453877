"""Exact cosines, farthest-first, the representation filter and witnesses, against literal loops."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish_services.embedding.coverage import vectors as vectors_module
from burnish_services.embedding.coverage.pool import Groups
from burnish_services.embedding.coverage.spread import k_center, repr_filter
from burnish_services.embedding.coverage.vectors import UnitVectors
from burnish_services.embedding.coverage.witness import witnesses

Floats = NDArray[np.float32]


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """So that a few rows already fill several blocks."""
    with mock.patch.object(vectors_module, "TILE", 7):
        yield


@st.composite
def some_vectors(draw: st.DrawFn, *, most: int = 30) -> Floats:
    """Few small whole numbers: duplicates, zeros and ties abound."""
    n, d = draw(st.integers(1, most)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(-2, 3, (n, d)).astype(np.float32)


def some_groups(n: int, seed: int) -> Groups:
    rng = np.random.default_rng(seed)
    return Groups(rng.integers(0, 3, n), np.array([2, 0, 5]))


def all_cosines(vectors: Floats) -> NDArray[np.float64]:
    block = UnitVectors(vectors).block(slice(None))
    return block.cosines(block)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 20),
    d=st.sampled_from([1, 3, 64, 257]),
    scale=st.sampled_from([1e-30, 1.0, 1e18]),
    seed=st.integers(0, 2**32 - 1),
)
def test_cosines_are_near_the_true_ones_and_the_same_in_any_block(n: int, d: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, d)) * scale).astype(np.float32)
    vectors[rng.integers(n)] = vectors[0]
    vectors[rng.integers(n)] = 0
    found = all_cosines(vectors)
    rows = vectors.astype(np.float64).tolist()
    norms = [math.sqrt(math.fsum(x * x for x in row)) for row in rows]
    for i in range(n):
        for j in range(n):
            true = math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True)) / ((norms[i] * norms[j]) or 1)
            assert found[i, j] == pytest.approx(true, abs=1e-6)
    unit = UnitVectors(vectors)
    alone = [[unit.block(np.array([i])).cosines(unit.block(np.array([j])))[0, 0] for j in range(n)] for i in range(n)]
    assert found.tolist() == alone
    is_equal = (vectors[:, None] == vectors[None]).all(axis=2) & (vectors != 0).any(axis=1)
    assert (found[is_equal] == 1).all()
    assert (abs(found) <= 1).all()
    assert (found[~vectors.any(axis=1)] == 0).all()


def test_cosines_are_exact_on_the_grid() -> None:
    vectors = np.random.default_rng(4).standard_normal((2, 500), dtype=np.float32)
    block = UnitVectors(vectors).block(slice(None))
    exact = [[Fraction(x) for x in row] for row in block.vectors.tolist()]
    distance = sum((x - y) ** 2 for x, y in zip(*exact, strict=True))
    assert Fraction(float(block.cosines(block)[0, 1])) == 1 - distance / 2


@pytest.mark.parametrize(
    ("vectors", "complaint"),
    [
        (np.ones((3, 2)), "float32"),
        (np.ones(3, np.float32), "matrix"),
        (np.array([[1.0], [np.nan]], np.float32), "finite"),
        (np.array([[1.0], [-np.inf]], np.float32), "finite"),
    ],
)
def test_refuses_vectors_without_directions(vectors: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        UnitVectors(vectors)


def literal_k_center(
    distances: NDArray[np.float64], budget: int, first: int | None, start: list[int], groups: Groups
) -> tuple[list[int], list[float]]:
    room = groups.budgets.tolist()
    picks: list[int] = []
    gains: list[float] = []
    while len(picks) < budget:
        rows = [i for i in range(len(distances)) if i not in start + picks and room[groups.of_row[i]] > 0]
        if not rows:
            break
        nearest = [min((distances[i, j] for j in start + picks), default=2.0) for i in rows]
        place = max(range(len(rows)), key=lambda p: (nearest[p], -rows[p]))
        if first is not None and not picks:
            place = rows.index(first)
        picks.append(rows[place])
        gains.append(nearest[place])
        room[groups.of_row[rows[place]]] -= 1
    return picks, gains


@settings(max_examples=80, deadline=None)
@given(vectors=some_vectors(), budget=st.integers(0, 32), seed=st.integers(0, 99), num_start=st.integers(0, 9))
def test_k_center_picks_what_a_literal_loop_picks(vectors: Floats, budget: int, seed: int, num_start: int) -> None:
    n = len(vectors)
    start = np.random.default_rng(seed).permutation(n)[:num_start].tolist()
    groups = some_groups(n, seed) if seed % 2 else Groups(np.zeros(n, np.intp), np.array([n]))
    found = k_center(UnitVectors(vectors), budget, start=start, groups=groups)
    first = int(found.rows[0]) if len(found.rows) and not start else None
    distances = 1 - all_cosines(vectors)
    is_zero = ~vectors.any(axis=1)
    distances[np.ix_(is_zero, is_zero)] = 0
    picks, gains = literal_k_center(distances, budget, first, start, groups)
    assert found.rows.tolist() == picks
    assert found.gains.tolist() == gains


def test_k_center_starts_nearest_to_the_mean() -> None:
    angles = np.deg2rad([0, 80, 35, 90, 36, 35])
    vectors = UnitVectors(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    assert k_center(vectors, 3).rows.tolist() == [4, 3, 0]  # the mean direction is at 46 degrees


def test_k_center_takes_one_vector_of_zeros_before_all_others() -> None:
    vectors = UnitVectors(np.array([[0, 0], [1, 0], [0, 0], [1, 1], [0, 0]], np.float32))
    assert k_center(vectors, 4, start=[1]).rows.tolist() == [0, 3, 2, 4]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 9), budget=st.integers(1, 4))
def test_k_center_covers_within_twice_the_best_radius(seed: int, n: int, budget: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((n, 3), dtype=np.float32)
    lines = np.sqrt(2 - 2 * all_cosines(vectors))
    picked = k_center(UnitVectors(vectors), budget).rows
    best = min(lines[:, list(some)].min(axis=1).max() for some in combinations(range(n), min(budget, n)))
    assert lines[:, picked].min(axis=1).max() <= 2 * best + 1e-6


@settings(max_examples=80, deadline=None)
@given(
    vectors=some_vectors(),
    budget=st.integers(0, 32),
    most=st.sampled_from([-0.5, 0.3, 0.9, 1.0]),
    seed=st.integers(0, 99),
    num_start=st.integers(0, 9),
)
def test_repr_filter_keeps_what_a_literal_loop_keeps(
    vectors: Floats, budget: int, most: float, seed: int, num_start: int
) -> None:
    n = len(vectors)
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, 4, n) / 4
    start = rng.permutation(n)[:num_start].tolist()
    groups = some_groups(n, seed) if seed % 2 else Groups(np.zeros(n, np.intp), np.array([n]))
    cosines, room = all_cosines(vectors), groups.budgets.tolist()
    kept: list[int] = []
    for row in sorted(set(range(n)) - set(start), key=lambda i: (-quality[i], i)):
        near = any(cosines[row, other] > most for other in start + kept)
        if len(kept) < budget and not near and room[groups.of_row[row]] > 0:
            kept.append(row)
            room[groups.of_row[row]] -= 1
    found = repr_filter(UnitVectors(vectors), quality, budget, most=most, start=start, groups=groups)
    assert found.rows.tolist() == kept
    assert found.gains.tolist() == quality[kept].tolist()


def test_repr_filter_drops_near_duplicates_by_default() -> None:
    vectors = UnitVectors(np.array([[1, 0], [1, 0.1], [0, 1], [0.2, 1], [1, 1]], np.float32))
    assert repr_filter(vectors, np.array([0.1, 0.9, 0.5, 0.4, 0.3]), 5).rows.tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="5 finite qualities"):
        repr_filter(vectors, np.array([0.1, 0.9, 0.5, 0.4, math.nan]), 5)
    with pytest.raises(ValueError, match="5 finite qualities"):
        repr_filter(vectors, np.ones(4), 5)


@settings(max_examples=80, deadline=None)
@given(vectors=some_vectors(), seed=st.integers(0, 99), share=st.floats(0, 1))
def test_a_witness_is_the_nearest_kept_row(vectors: Floats, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(vectors))[: max(1, int(share * len(vectors)))]
    found = witnesses(UnitVectors(vectors), kept)
    cosines = all_cosines(vectors)
    dropped = [row for row in range(len(vectors)) if row not in kept]
    expected = [min((-cosines[row, other], other) for other in kept.tolist())[1] for row in dropped]
    assert found.dropped.tolist() == dropped
    assert found.kept.tolist() == expected
    assert found.cosines.tolist() == [cosines[pair] for pair in zip(dropped, expected, strict=True)]


def test_witnesses_need_someone_kept() -> None:
    vectors = UnitVectors(np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="no row is kept"):
        witnesses(vectors, np.array([], np.intp))
    with pytest.raises(ValueError, match="2"):
        witnesses(vectors, np.array([0, 2]))
    nothing = witnesses(UnitVectors(np.empty((0, 2), np.float32)), np.array([], np.intp))
    assert len(nothing.dropped) == len(nothing.kept) == len(nothing.cosines) == 0


def test_holds_no_matrix_of_all_pairs() -> None:
    matrix = np.random.default_rng(11).standard_normal((6000, 4), dtype=np.float32)
    with mock.patch.object(vectors_module, "TILE", 512):
        tracemalloc.start()
        vectors = UnitVectors(matrix)
        witnesses(vectors, np.arange(0, 6000, 2))
        repr_filter(vectors, np.ones(6000), 3000, most=1.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 * 2**20  # all pairs would take 275 MiB


@pytest.mark.parametrize("budget", [0, 1, 9])
@pytest.mark.parametrize("n", [0, 1])
def test_few_rows_and_any_budget(n: int, budget: int) -> None:
    vectors = UnitVectors(np.ones((n, 3), np.float32))
    assert k_center(vectors, budget).rows.tolist() == list(range(n))[:budget]
    assert repr_filter(vectors, np.ones(n), budget).rows.tolist() == list(range(n))[:budget]


def test_gives_up_when_asked() -> None:
    vectors = UnitVectors(np.random.default_rng(0).standard_normal((60, 3), dtype=np.float32))
    for work in (
        lambda check: k_center(vectors, 9, check=check),
        lambda check: k_center(vectors, 9, start=range(30), check=check),
        lambda check: repr_filter(vectors, np.ones(60), 9, check=check),
        lambda check: witnesses(vectors, np.arange(30), check=check),
    ):
        check = mock.Mock(side_effect=[None, None, InterruptedError])
        with pytest.raises(InterruptedError):
            work(check)
        assert check.call_count == 3
