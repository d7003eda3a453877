"""The neighbour search's products by torch give what those by numpy give. On the CPU; a GPU where there is one."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from burnish_services.embedding import device_search
from burnish_services.embedding.neighbors import Metric, nearest_neighbors, propose_by_tiles
from burnish_services.runtime.role import RoleUnavailable

DEVICES = [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize(("spread", "number"), [(1e-6, 200), (1.0, 3000)])
def test_finds_what_numpy_finds(device: torch.device, metric: Metric, spread: float, number: int) -> None:
    rng = np.random.default_rng(2)
    vectors = (rng.standard_normal(48) + spread * rng.standard_normal((number, 48))).astype(np.float32)
    vectors[-20:] = vectors[:20]
    vectors[7] = 0
    propose = partial(device_search.propose_on, device, tile_bytes=number * number)
    expected = nearest_neighbors(vectors, 3, metric=metric)
    found = nearest_neighbors(vectors, 3, metric=metric, propose=propose)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.values, expected.values)


def test_is_asked_whether_to_go_on_between_tiles() -> None:
    vectors = np.random.default_rng(2).standard_normal((100, 4), dtype=np.float32)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    propose = partial(device_search.propose_on, torch.device("cpu"), tile_bytes=4 * 100 * 10)
    with pytest.raises(InterruptedError):
        nearest_neighbors(vectors, 3, propose=propose, check=check)


def test_without_a_gpu_numpy_multiplies_unless_a_gpu_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_search.proposer("auto") is propose_by_tiles
    with pytest.raises(RoleUnavailable, match="set it to auto or cpu"):
        device_search.proposer("cuda")


def test_a_gpu_without_room_leaves_the_work_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_search, "propose_on", full)
    vectors = np.random.default_rng(2).standard_normal((50, 4), dtype=np.float32)
    found = nearest_neighbors(vectors, 2, propose=device_search.proposer("auto"))
    np.testing.assert_array_equal(found.indices, nearest_neighbors(vectors, 2).indices)
