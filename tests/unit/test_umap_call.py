"""The call of umap-learn with a module of its name in its place, for it is not installed where most tests run; what a
stand-in shows beside `test_projection.py`: all that is asked, who asks when, and by hand what becomes of the answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest

from burnish_services.embedding.projecting import Method, project
from burnish_services.embedding.projection_umap import umap_plane
from burnish_services.runtime.errors import PreconditionFailed

VECTORS = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)


class Standin(ModuleType):
    """A module `umap` that notes what it is asked; answers with `answer`, or with the vectors' first two numbers."""

    def __init__(self) -> None:
        super().__init__("umap")
        self.asked: list[dict[str, Any]] = []
        self.fitted: list[np.ndarray] = []
        self.answer: np.ndarray | None = None

    def UMAP(self, *words: object, **settings: object) -> Standin:
        assert not words
        self.asked.append(settings)
        return self

    def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
        self.fitted.append(vectors)
        return vectors[:, :2].copy() if self.answer is None else self.answer


@pytest.fixture
def umap() -> Iterator[Standin]:
    made = Standin()
    with mock.patch.dict(sys.modules, umap=made):
        yield made


def test_fifteen_neighbours_by_cosine_on_two_axes_seeded_and_on_one_thread(umap: Standin) -> None:
    umap_plane(VECTORS)
    umap_plane(VECTORS)
    wanted = {"n_neighbors": 15, "n_components": 2, "metric": "cosine", "random_state": 0, "n_jobs": 1}
    assert umap.asked == [wanted, wanted], "the same seed each time, and nothing besides"
    assert all(vectors is VECTORS for vectors in umap.fitted), "as they are: cosine knows no lengths"


@pytest.mark.parametrize(("count", "neighbours"), [(4, 3), (5, 4), (15, 14), (16, 15), (17, 15), (40, 15)])
def test_of_few_points_all_others_are_neighbours(umap: Standin, count: int, neighbours: int) -> None:
    assert umap_plane(VECTORS[:count]).points.shape == (count, 2)
    assert [one["n_neighbors"] for one in umap.asked] == [neighbours]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_of_fewer_than_four_points_nothing_is_asked(umap: Standin, count: int) -> None:
    plane = umap_plane(VECTORS[:count], check=lambda: pytest.fail("there is no work that could be given up"))
    assert umap.asked == []
    assert plane.points.dtype == np.float32
    np.testing.assert_array_equal(plane.points, np.zeros((count, 2)))


def test_points_are_where_umap_puts_them_but_for_their_middle(umap: Standin) -> None:
    umap.answer = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [6.0, 60.0]])  # whose middle is 3, 30
    plane = umap_plane(VECTORS[:4])
    np.testing.assert_array_equal(plane.points, [[-2, -20], [-1, -10], [0, 0], [3, 30]])
    assert plane.points.dtype == np.float32
    assert plane.shares == (0.0, 0.0), "its axes show no share of the variance"


def test_a_point_that_umap_puts_nowhere_is_in_the_middle_of_the_others(umap: Standin) -> None:
    umap.answer = np.array([[1.0, 10.0], [np.nan, np.nan], [3.0, 30.0], [np.inf, 5.0], [5.0, 50.0]], np.float32)
    np.testing.assert_array_equal(umap_plane(VECTORS[:5]).points, [[-2, -20], [0, 0], [0, 0], [0, 0], [2, 20]])


def test_work_that_nobody_waits_for_is_not_begun(umap: Standin) -> None:
    def gone() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        umap_plane(VECTORS, check=gone)
    assert umap.fitted == []
    checks: list[int] = []
    umap_plane(VECTORS, check=lambda: checks.append(len(umap.fitted)))
    assert checks == [0], "once, before what cannot be given up"


def test_only_who_asks_for_umap_gets_it(umap: Standin) -> None:
    by_pca = project(Method.PCA, VECTORS, lambda: None)
    assert umap.asked == []
    by_umap = project(Method.UMAP, VECTORS, lambda: None)
    assert len(umap.asked) == 1
    np.testing.assert_allclose(by_umap.points, VECTORS[:, :2] - VECTORS[:, :2].mean(axis=0), atol=1e-6)
    assert by_pca.shares[0] > 0 == by_umap.shares[0]


@pytest.mark.parametrize("count", [3, 40])
def test_where_the_package_is_missing_or_broken_the_refusal_says_which_and_what_to_do(count: int) -> None:
    """Whatever the size of the set: a server that cannot do it says so the first time."""
    for module, why in ((None, "import of umap halted"), (ModuleType("umap"), "cannot import name 'UMAP' from 'umap'")):
        with mock.patch.dict(sys.modules, umap=module), pytest.raises(PreconditionFailed) as error:
            umap_plane(VECTORS[:count])
        assert error.value.reason == "UMAP_NOT_INSTALLED"
        assert error.value.message.startswith(f"this server cannot place samples by UMAP ({why}")
        assert error.value.message.endswith("); pip install umap-learn there, or ask for PCA")


def test_who_asks_for_pca_needs_no_package() -> None:
    with mock.patch.dict(sys.modules, umap=None):
        assert project(Method.PCA, VECTORS, lambda: None).points.shape == (40, 2)
