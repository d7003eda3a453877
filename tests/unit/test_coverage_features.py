"""Packed and ragged features, their weights, and what repetitions are worth."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish_services.embedding.coverage import kernels
from burnish_services.embedding.coverage.features import FeatureRows, idf_weights
from burnish_services.embedding.coverage.increments import CappedCount, DecayingCount, Increment, LogCount

Array = NDArray[Any]

PACKED = np.array([[0, 2, 1, 3], [1, 2, 0, 1], [0, 2, 1, 3]], np.uint16)  # two layers of four neurons, k = 2


def packed(ids: NDArray[np.uint16] = PACKED) -> FeatureRows:
    return FeatureRows.packed(ids, num_layers=2, width=4)


def ragged(sets: list[set[int]], num_features: int = 8) -> FeatureRows:
    ids = np.array([feature for one in sets for feature in sorted(one)], np.uint32)
    return FeatureRows.ragged(ids, np.cumsum([0, *map(len, sets)], dtype=np.int64), num_features)


def test_a_packed_id_counts_within_its_layer() -> None:
    rows = packed()
    assert (rows.num_rows, rows.num_features) == (3, 8)
    assert rows.frequencies().tolist() == [2, 1, 3, 0, 1, 3, 0, 2]


@settings(max_examples=50, deadline=None)
@given(sets=st.lists(st.sets(st.integers(0, 7)), max_size=8))
def test_ragged_rows_are_the_sets_they_were_made_of(sets: list[set[int]]) -> None:
    rows = ragged(sets)
    assert rows.num_rows == len(sets)
    assert rows.frequencies().tolist() == [sum(feature in one for one in sets) for feature in range(8)]
    assert [rows.ids[start:end].tolist() for start, end in pairwise(rows.starts)] == [sorted(one) for one in sets]


def test_packed_rows_are_neither_copied_nor_written_to(tmp_path: Path) -> None:
    ids = PACKED.copy()
    rows = packed(ids)
    assert np.shares_memory(rows.ids, ids)
    assert ids.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        rows.ids[0] = 1
    ids.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", np.uint16, "r", shape=ids.shape)
    assert packed(mapped).frequencies().tolist() == rows.frequencies().tolist()


@pytest.mark.parametrize("num_rows", [0, 1])
def test_few_rows_and_rows_without_features(num_rows: int) -> None:
    assert packed(PACKED[:num_rows]).frequencies().sum() == 4 * num_rows
    empty = FeatureRows.packed(np.empty((num_rows, 0), np.uint16), num_layers=2, width=4)
    assert (empty.num_rows, empty.frequencies().tolist()) == (num_rows, [0] * 8)
    assert ragged([set()] * num_rows).num_rows == num_rows


@pytest.mark.parametrize(
    ("ids", "layers", "width", "complaint"),
    [
        (PACKED.astype(np.int32), 2, 4, "uint16"),
        (PACKED[0], 2, 4, "matrix"),
        (PACKED[:, ::2], 2, 4, "contiguous"),
        (PACKED, 3, 4, "4 columns"),
        (PACKED, 0, 4, "0 layers"),
        (PACKED, 2, 65537, "65537 neurons"),
        (PACKED, 2, 3, "row 0 has id 3"),
        (PACKED[:, [0, 1, 3, 2]].copy(), 2, 4, "row 0 .*ascend"),
        (np.array([[0, 1], [1, 1]], np.uint16), 1, 4, "row 1 .*repeated"),
    ],
)
def test_refuses_what_is_not_packed(ids: Array, layers: int, width: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FeatureRows.packed(ids, num_layers=layers, width=width)


@pytest.mark.parametrize(
    ("ids", "indptr", "num_features", "complaint"),
    [
        (np.array([0, 1]), np.array([0, 2]), 4, "uint32"),
        (np.array([0, 1], np.uint32), np.array([0, 2], np.int32), 4, "int64"),
        (np.array([0, 1], np.uint32), np.array([], np.int64), 4, "non-empty"),
        (np.array([0, 1], np.uint32), np.array([0, 1]), 4, "number of ids, 2"),
        (np.array([0, 1], np.uint32), np.array([0, 2, 1, 2]), 4, "without falling"),
        (np.array([0, 1], np.uint32), np.array([0, 2]), 0, "0 features"),
        (np.array([0, 4], np.uint32), np.array([0, 1, 2]), 4, "row 1 has id 4"),
        (np.array([1, 0], np.uint32), np.array([0, 2]), 4, "ascend"),
    ],
)
def test_refuses_what_is_not_ragged(ids: Array, indptr: Array, num_features: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FeatureRows.ragged(ids, indptr, num_features)


def test_rare_features_are_heavy_and_those_of_one_row_weightless() -> None:
    weights = idf_weights(np.array([0, 1, 2, 10, 20]), 20)
    np.testing.assert_allclose(weights, [0, 0, math.sqrt(math.log(10)), math.sqrt(math.log(2)), 0])


@pytest.mark.parametrize(
    ("increment", "literal"),
    [
        (LogCount(), lambda c: math.log(1 + c)),
        (CappedCount(), lambda c: min(c, 1)),
        (CappedCount(3), lambda c: min(c, 3)),
        (DecayingCount(0.7), lambda c: 1 - 0.7**c),
    ],
)
def test_increments_rise_by_steps_that_never_rise(increment: Increment, literal: Any) -> None:
    values, steps = increment.values(np.arange(5001)), increment.steps(5000)
    np.testing.assert_allclose(values, [literal(c) for c in range(5001)], rtol=1e-14)
    np.testing.assert_allclose(steps, np.diff(values), rtol=0, atol=1e-14)
    assert (np.diff(steps) <= 0).all()
    assert (steps >= 0).all()
    assert values[0] == 0


def test_refuses_increments_that_are_not_concave() -> None:
    with pytest.raises(ValueError, match="most is 0"):
        CappedCount(0)
    for decay in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="decay"):
            DecayingCount(decay)


def test_compiles_without_a_cache_where_none_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, bool]] = []

    def njit(**options: bool) -> Any:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels, "njit", njit)
    assert kernels._compiled(len) is len
    assert asked == [{"nogil": True, "cache": True}, {"nogil": True}]
