"""The picture of a set against plain linear algebra."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish_services.embedding import projection
from burnish_services.embedding.projection import principal_plane


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 60), d=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_it_is_the_plane_of_the_singular_value_decomposition(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, d)) * rng.uniform(0.1, 9, (n, 1))).astype(np.float32)
    with mock.patch.object(projection, "_BLOCK", 7):
        plane = principal_plane(vectors)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    wanted = np.zeros((n, 2))
    wanted[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    # An axis may point either way, and nearly equal ones may turn; distances from the middle are what counts.
    gap = sizes[0] - sizes[1] if len(sizes) > 1 else 1.0
    if gap > 0.05:
        np.testing.assert_allclose(np.abs(plane.points[:, 0]), np.abs(wanted[:, 0]), atol=1e-4)
    total = float((centred**2).sum())
    if total > 1e-6:
        assert plane.shares[0] == pytest.approx(sizes[0] ** 2 / total, abs=1e-6)
        assert 0 <= plane.shares[1] <= plane.shares[0] <= 1


def test_length_does_not_matter_and_the_same_set_gives_the_same_picture() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((50, 8)).astype(np.float32)
    plane = principal_plane(vectors)
    np.testing.assert_array_equal(plane.points, principal_plane(vectors.copy()).points)
    np.testing.assert_allclose(plane.points, principal_plane(vectors * np.float32(4)).points, atol=1e-6)
    order = rng.permutation(50)
    np.testing.assert_allclose(plane.points[order], principal_plane(vectors[order]).points, atol=1e-5)


def test_groups_lie_apart() -> None:
    rng = np.random.default_rng(2)
    centres = np.eye(3, 16) * 5
    vectors = np.concatenate([c + 0.2 * rng.standard_normal((20, 16)) for c in centres]).astype(np.float32)
    points = principal_plane(vectors).points.reshape(3, 20, 2)
    means = points.mean(axis=1)
    spread = points.std(axis=1).max()
    distances = [np.linalg.norm(means[i] - means[j]) for i in range(3) for j in range(i)]
    assert min(distances) > 5 * spread


@pytest.mark.parametrize("shape", [(0, 4), (0, 0), (1, 4), (5, 1)])
def test_sets_without_a_plane(shape: tuple[int, int]) -> None:
    plane = principal_plane(np.ones(shape, np.float32))
    assert plane.points.shape == (shape[0], 2)
    assert plane.shares == (0.0, 0.0)
    np.testing.assert_allclose(plane.points, 0, atol=1e-6)
    assert (principal_plane(np.zeros((4, 3), np.float32)).points == 0).all()
