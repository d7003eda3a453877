"""The blockwise neighbour search against the plainest possible one."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish_services.embedding.neighbors import Metric, arrays, best, cells, nearest_neighbors, search
from burnish_services.embedding.neighbors.exact import Pairs, exact_pairs

Floats = NDArray[np.float32]


@contextmanager
def small_blocks() -> Iterator[None]:
    """So that a few rows already take every path: several tiles, heads, chunks, too few spare candidates."""
    with mock.patch.multiple(arrays, TILE=7, CHUNK=32), mock.patch.multiple(best, HEAD=3, SPARE=1):
        yield


def naive(vectors: Floats) -> NDArray[np.float64]:
    """All cosines, pair by pair, with exactly rounded sums; the diagonal is NaN."""
    rows = vectors.astype(np.float64).tolist()
    norms = [math.sqrt(math.fsum(x * x for x in row)) for row in rows]
    cosines = np.zeros((len(rows), len(rows)))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            if i == j:
                cosines[i, j] = np.nan
            elif norms[i] and norms[j]:
                dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
                cosines[i, j] = 1.0 if a == b else min(max(dot / (norms[i] * norms[j]), -1.0), 1.0)
    return cosines


def naive_order(cosines: NDArray[np.float64], k: int) -> list[list[int]]:
    return [
        sorted((j for j in range(len(row)) if j != i), key=lambda j: (-row[j], j))[:k] for i, row in enumerate(cosines)
    ]


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda d: st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=1, max_size=40)
    ),
    k=st.integers(1, 12),
)
def test_equals_the_naive_search_with_duplicates_zeros_and_ties(rows: list[list[int]], k: int) -> None:
    # Sums of small integers are exact in any order, so even ties must agree.
    vectors = np.array(rows, np.float32)
    expected = naive(vectors)
    with small_blocks():
        found = nearest_neighbors(vectors, k)
    assert found.indices.tolist() == naive_order(expected, k)
    np.testing.assert_array_equal(found.values, np.take_along_axis(expected, found.indices, axis=1))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 50),
    d=st.sampled_from([1, 3, 16, 33]),
    k=st.integers(1, 6),
    spread=st.sampled_from([0.0, 1e-7, 1e-5, 1e-2, 1.0, 100.0]),
    scale=st.sampled_from([1e-30, 1.0, 1e18]),
    seed=st.integers(0, 2**32 - 1),
)
def test_finds_the_nearest_among_nearly_equal_vectors(
    n: int, d: int, k: int, spread: float, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = ((rng.standard_normal(d) + spread * rng.standard_normal((n, d))) * scale).astype(np.float32)
    vectors[rng.integers(n)] = vectors[rng.integers(n)]
    expected = naive(vectors)
    with small_blocks():
        found = nearest_neighbors(vectors, k)
    best = -np.sort(-np.where(np.isnan(expected), -np.inf, expected), axis=1)[:, : min(k, n - 1)]
    np.testing.assert_allclose(found.values, best, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.values, np.take_along_axis(expected, found.indices, axis=1), rtol=0, atol=1e-14)
    assert all(len(set(row)) == len(row) and i not in row for i, row in enumerate(found.indices.tolist()))


def test_agrees_with_one_matrix_product_at_the_real_block_sizes() -> None:
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((5000, 32), dtype=np.float32)
    vectors[4000:4050] = vectors[100:150]
    vectors[17] = 0
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-300)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    found = nearest_neighbors(vectors, 3)
    np.testing.assert_allclose(found.values, -np.sort(-cosines, axis=1)[:, :3], rtol=0, atol=1e-12)
    assert found.indices[4000:4050, 0].tolist() == list(range(100, 150))
    assert (found.values[4000:4050, 0] == 1.0).all()
    assert found.indices[17].tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.means, found.values.mean(axis=1))


def test_a_row_has_the_same_cosines_wherever_it_stands() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((300, 37), dtype=np.float32)
    shuffled = rng.permutation(300)
    with small_blocks():
        straight, permuted = nearest_neighbors(vectors, 4), nearest_neighbors(vectors[shuffled], 4)
    np.testing.assert_array_equal(straight.values[shuffled], permuted.values)


def test_many_copies_of_one_vector_are_each_others_neighbours_by_row() -> None:
    vectors = np.tile(np.array([[0.1, 0.7, -0.3]], np.float32), (5000, 1))
    found = nearest_neighbors(vectors, 2)
    assert found.indices[:3].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert (found.indices[3:] == [0, 1]).all()
    assert (found.values == 1.0).all()


def test_signed_zeros_are_equal_and_a_lone_row_has_no_neighbours() -> None:
    # (1, 0.5) is one of the vectors whose cosine with itself is below 1 in float64.
    pair = nearest_neighbors(np.array([[0.0, 1.0, 0.5], [-0.0, 1.0, 0.5]], np.float32), 2)
    assert pair.indices.tolist() == [[1], [0]]
    assert pair.values.tolist() == [[1.0], [1.0]]
    lone = nearest_neighbors(np.ones((1, 4), np.float32), 2)
    assert lone.indices.shape == (1, 0)
    assert lone.means.tolist() == [0.0]
    assert nearest_neighbors(np.ones((0, 4), np.float32), 2).indices.shape[0] == 0


def test_holds_no_matrix_of_all_pairs() -> None:
    rng = np.random.default_rng(11)
    vectors = rng.standard_normal((8000, 4), dtype=np.float32)
    with mock.patch.multiple(arrays, TILE=256, CHUNK=1 << 18):
        tracemalloc.start()
        nearest_neighbors(vectors, 2)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 24 * 2**20  # all pairs would take 244 MiB


def test_gives_up_when_asked() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    vectors = np.random.default_rng(0).standard_normal((60, 3), dtype=np.float32)
    with small_blocks(), pytest.raises(InterruptedError):
        nearest_neighbors(vectors, 2, check=check)
    assert calls == 3


@pytest.mark.parametrize(
    ("vectors", "k", "complaint"),
    [
        (np.ones((3, 2)), 1, "float32"),
        (np.ones(3, np.float32), 1, "matrix"),
        (np.ones((3, 2), np.float32), 0, "k is 0"),
        (np.array([[1.0], [np.nan]], np.float32), 1, "finite"),
        (np.array([[1.0], [-np.inf]], np.float32), 1, "finite"),
    ],
)
def test_refuses_what_has_no_answer(vectors: Floats, k: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        nearest_neighbors(vectors, k)


def naive_distances(vectors: Floats) -> NDArray[np.float64]:
    """All distances, negative, pair by pair; the diagonal is NaN."""
    rows = vectors.astype(np.float64).tolist()
    scores = [[-math.dist(a, b) for b in rows] for a in rows]
    found = np.array(scores, np.float64).reshape(len(rows), len(rows))
    np.fill_diagonal(found, np.nan)
    return found


def without_copies(vectors: Floats, scores: NDArray[np.float64], k: int) -> list[list[int]]:
    """The k nearest among the first rows of all other vectors."""
    rows = [tuple(row) for row in vectors.tolist()]
    firsts = [j for j, row in enumerate(rows) if row not in rows[:j]]
    return [
        sorted((j for j in firsts if rows[j] != rows[i]), key=lambda j: (-scores[rows.index(rows[i])][j], j))[:k]
        for i in range(len(rows))
    ]


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda d: st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=1, max_size=40)
    ),
    k=st.integers(1, 12),
    metric=st.sampled_from(Metric),
    distinct=st.booleans(),
)
def test_equals_the_naive_search_by_any_metric_with_and_without_copies(
    rows: list[list[int]], k: int, metric: Metric, distinct: bool
) -> None:
    vectors = np.array(rows, np.float32)
    scores = naive(vectors) if metric is Metric.COSINE else naive_distances(vectors)
    with small_blocks():
        found = nearest_neighbors(vectors, k, metric=metric, distinct=distinct)
    expected = without_copies(vectors, scores, k) if distinct else naive_order(scores, k)
    assert found.indices.tolist() == expected
    sign = 1 if metric is Metric.COSINE else -1
    if found.indices.size:
        np.testing.assert_allclose(found.values, sign * np.take_along_axis(scores, found.indices, axis=1), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 50),
    d=st.sampled_from([1, 3, 16, 33]),
    k=st.integers(1, 6),
    spread=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 100.0]),
    scale=st.sampled_from([1e-10, 1.0, 1e10]),
    seed=st.integers(0, 2**32 - 1),
)
def test_finds_the_least_distances_among_nearly_equal_vectors(
    n: int, d: int, k: int, spread: float, scale: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = ((rng.standard_normal(d) + spread * rng.standard_normal((n, d))) * scale).astype(np.float32)
    expected = -naive_distances(vectors)
    with small_blocks():
        found = nearest_neighbors(vectors, k, metric=Metric.EUCLIDEAN)
    best = np.sort(np.where(np.isnan(expected), np.inf, expected), axis=1)[:, : min(k, n - 1)]
    np.testing.assert_allclose(found.values, best, rtol=1e-12, atol=0)


def test_copies_of_one_vector_have_no_distinct_neighbours() -> None:
    found = nearest_neighbors(np.ones((4, 3), np.float32), 2, distinct=True)
    assert found.indices.shape == (4, 0)
    assert found.means.tolist() == [0.0] * 4


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 60),
    d=st.sampled_from([1, 3, 16]),
    k=st.integers(1, 6),
    recall=st.sampled_from([0.01, 0.5, 0.9]),
    metric=st.sampled_from(Metric),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_an_approximate_search_finds_has_its_true_value_and_comes_again(
    n: int, d: int, k: int, recall: float, metric: Metric, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    vectors[rng.integers(n)] = vectors[rng.integers(n)]
    expected = naive(vectors) if metric is Metric.COSINE else -naive_distances(vectors)
    with small_blocks(), mock.patch.multiple(cells, _QUERIES=n):
        found = nearest_neighbors(vectors, k, metric=metric, recall=recall)
        again = nearest_neighbors(vectors, k, metric=metric, recall=recall)
    assert found.indices.shape == (n, min(k, n - 1))
    assert all(len(set(row)) == len(row) and i not in row for i, row in enumerate(found.indices.tolist()))
    np.testing.assert_allclose(found.values, np.take_along_axis(expected, found.indices, axis=1), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.indices, again.indices)
    assert (found.search.num_cells > 0) == (k < len(np.unique(vectors, axis=0)))
    assert 0 <= found.search.num_probed <= found.search.num_cells


def test_an_approximate_search_keeps_its_promise_and_says_what_it_came_to() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((60, 24))[rng.integers(60, size=6000)] + 0.7 * rng.standard_normal((6000, 24))
    vectors = vectors.astype(np.float32)
    vectors[1000:1500] = vectors[:500]
    exact = nearest_neighbors(vectors, 3)
    probed = {}
    for recall in (0.6, 0.95):
        found = nearest_neighbors(vectors, 3, recall=recall)
        share = (found.values >= exact.values[:, -1:]).mean()
        probed[recall] = found.search.num_probed
        assert share >= recall
        assert found.search.num_queries == 500
        # 1,500 neighbours are a sample of 18,000: three standard errors.
        assert found.search.recall == pytest.approx(share, abs=3 * (recall * (1 - recall) / 1500) ** 0.5)
        assert (found.values[1000:1500, 0] == 1.0).all()
        assert found.search.num_probed < found.search.num_cells / 2
    assert probed[0.6] < probed[0.95]
    assert exact.search.num_cells == 0
    assert exact.search.recall == 1


def test_the_promise_holds_for_vectors_that_float32_cannot_tell_apart() -> None:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((4000, 20)) @ rng.standard_normal((20, 256))
    vectors = (latent / latent.std() + 31 * rng.standard_normal(256)).astype(np.float32)
    exact = nearest_neighbors(vectors, 2)
    found = nearest_neighbors(vectors, 2, recall=0.95)
    assert (found.values >= exact.values[:, -1:]).mean() >= 0.95


@pytest.mark.parametrize("distinct", [False, True])
def test_multiples_of_one_vector_tie_and_take_no_memory_for_all_pairs(distinct: bool) -> None:
    # Powers of two, so that all cosines are exactly 1; each a few times.
    vectors = np.outer(2.0 ** (np.arange(600) % 150 - 75), [3.0, 4.0]).astype(np.float32)
    pairs: list[Pairs] = []

    def kept(*given: Any) -> Pairs:
        pairs.append(exact_pairs(*given))
        return pairs[0]

    with small_blocks(), mock.patch.object(search, "exact_pairs", kept):
        found = nearest_neighbors(vectors, 3, distinct=distinct)
    assert len(pairs[0].query) == 150 * 3
    ties = np.ones((600, 600))
    expected = without_copies(vectors, ties, 3) if distinct else naive_order(ties, 3)
    assert found.indices.tolist() == expected


def test_many_probed_cells_take_no_more_memory_than_a_few() -> None:
    vectors = np.random.default_rng(2).standard_normal((4000, 4), dtype=np.float32)
    every = mock.patch.object(cells._InvertedFile, "enough", lambda self, *_: len(self._centroids))
    with every, mock.patch.multiple(arrays, TILE=256, CHUNK=1 << 16), mock.patch.object(cells, "_QUERIES", 50):
        tracemalloc.start()
        found = nearest_neighbors(vectors, 2, recall=0.5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert found.search.num_probed == 126
    assert peak < 8 * 2**20  # visits of all of them at once would take 14 MiB


def test_every_cell_is_an_exact_search() -> None:
    rng = np.random.default_rng(8)
    vectors = rng.standard_normal((400, 6), dtype=np.float32)
    exact = nearest_neighbors(vectors, 4)
    with mock.patch.object(cells._InvertedFile, "enough", lambda self, *_: len(self._centroids)):
        found = nearest_neighbors(vectors, 4, recall=0.5)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.values, exact.values)
    assert found.search.recall == 1
    assert found.search.num_probed == found.search.num_cells == 40


def test_many_different_vectors_are_searched_approximately_unless_asked_otherwise() -> None:
    vectors = np.random.default_rng(9).standard_normal((300, 5), dtype=np.float32)
    with mock.patch.object(search, "EXACT_UP_TO", 299):
        assert nearest_neighbors(vectors, 2).search.num_cells > 0
        assert nearest_neighbors(vectors, 2, recall=1).search.num_cells == 0
        assert nearest_neighbors(vectors[:299], 2).search.num_cells == 0


@pytest.mark.parametrize("recall", [0.0, -0.5, 1.5, math.nan])
def test_refuses_a_recall_that_is_no_share(recall: float) -> None:
    with pytest.raises(ValueError, match="expected it in"):
        nearest_neighbors(np.eye(3, dtype=np.float32), 1, recall=recall)
