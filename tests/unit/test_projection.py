"""The picture of a set against plain linear algebra, and by UMAP where that is installed."""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish._convert_coverage import projection_from_proto, projection_to_proto
from burnish._coverage_types import ProjectionMethod
from burnish._errors import UsageError
from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish_services.embedding import projection
from burnish_services.embedding.projecting import MOST_BY_UMAP, Method, check_size
from burnish_services.embedding.projection import principal_plane
from burnish_services.embedding.projection_umap import umap_plane
from burnish_services.runtime.errors import InvalidRequest, PreconditionFailed


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


# ---- by UMAP


def test_without_the_package_the_refusal_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(PreconditionFailed, match="pip install umap-learn there, or ask for PCA") as error:
        umap_plane(np.ones((20, 4), np.float32))
    assert error.value.reason == "UMAP_NOT_INSTALLED"


def test_only_umap_is_refused_many_samples() -> None:
    check_size(Method.PCA, 10 * MOST_BY_UMAP)
    check_size(Method.UMAP, MOST_BY_UMAP)
    with pytest.raises(InvalidRequest, match="100001 samples") as error:
        check_size(Method.UMAP, MOST_BY_UMAP + 1)
    assert error.value.reason == "TOO_MANY_SAMPLES"


def test_what_is_asked_of_umap() -> None:
    """The package's own part played by a stand-in, so that this is checked where it is missing, too."""
    made: list[dict[str, object]] = []

    class Stand:
        def __init__(self, **settings: object) -> None:
            made.append(settings)

        def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
            found = vectors[:, :2] + np.float32(7)
            found[3] = np.nan  # what it makes of a sample without neighbours
            return found

    vectors = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    with mock.patch.dict(sys.modules, umap=mock.Mock(UMAP=Stand)):
        plane = umap_plane(vectors)
        umap_plane(vectors[:5])
        assert (umap_plane(vectors[:3]).points == 0).all()
    assert [one["n_neighbors"] for one in made] == [15, 4]
    assert {(one["metric"], one["n_jobs"], one["random_state"]) for one in made} == {("cosine", 1, 0)}
    assert (plane.points.dtype, plane.points.shape, plane.shares) == (np.float32, (20, 2), (0.0, 0.0))
    assert (plane.points[3] == 0).all()
    np.testing.assert_allclose(plane.points.mean(axis=0), 0, atol=1e-6)


@pytest.mark.slow
def test_umap_keeps_planted_groups_apart_and_gives_the_same_points_again() -> None:
    pytest.importorskip("umap")
    rng = np.random.default_rng(3)
    centres = np.eye(2, 16) * 5
    vectors = np.concatenate([c + 0.5 * rng.standard_normal((60, 16)) for c in centres]).astype(np.float32)
    plane = umap_plane(vectors)
    np.testing.assert_array_equal(plane.points, umap_plane(vectors.copy()).points)
    np.testing.assert_allclose(plane.points.mean(axis=0), 0, atol=1e-4)
    first, second = plane.points.reshape(2, 60, 2)
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert between > 3 * max(first.std(), second.std())


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 15, 16])
def test_umap_takes_sets_of_any_size(count: int) -> None:
    pytest.importorskip("umap")
    vectors = np.random.default_rng(4).standard_normal((count, 6)).astype(np.float32)
    plane = umap_plane(vectors)
    assert (plane.points.shape, plane.points.dtype) == ((count, 2), np.float32)
    assert np.isfinite(plane.points).all()
    alone = np.concatenate([np.tile([1.0, 0, 0], (30, 1)), [[-1.0, 0, 0]]]).astype(np.float32)
    assert (umap_plane(alone).points[-1] == 0).all(), "opposite to all others"


# ---- between the SDK and the wire


@pytest.mark.parametrize("method", ProjectionMethod)
def test_the_method_is_asked_for_and_told(method: ProjectionMethod) -> None:
    request = projection_to_proto("c", ["b", "a"], method)
    assert (request.collection, list(request.sample_ids)) == ("c", ["b", "a"])
    assert pb.ProjectionMethod.Name(request.method) == f"PROJECTION_METHOD_{method.name}"
    reply = pb.ProjectSamplesResponse(variance_shares=[0, 0], method=request.method)
    assert projection_from_proto(reply).method is method


def test_a_server_that_knows_no_methods_answers_by_pca() -> None:
    assert projection_from_proto(pb.ProjectSamplesResponse(variance_shares=[0, 0])).method is ProjectionMethod.PCA
    with pytest.raises(UsageError, match="expected one of pca, umap"):
        projection_to_proto("c", (), "tsne")  # type: ignore[arg-type]
