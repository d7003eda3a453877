"""CLEAR decides on the bundled data as it did when its golden decisions were made, with a real model in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.clear import GOLDEN, decided

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


def numbers(value: Any) -> list[float]:
    """All numbers in a JSON value, in order."""
    if isinstance(value, dict):
        return [number for one in value.values() for number in numbers(one)]
    if isinstance(value, list | tuple):
        return [number for one in value for number in numbers(one)]
    return [float(value)] if isinstance(value, int | float) else []


def test_the_decisions_are_the_golden_ones(tmp_path: Path) -> None:
    expected, found = json.loads(GOLDEN.read_text(encoding="utf-8")), decided(tmp_path)
    assert [(row["row_id"], row["action"]) for row in found] == [(row["row_id"], row["action"]) for row in expected]
    assert {row["action"] for row in found} == {"keep", "correct", "drop"}
    for one, other in zip(found, expected, strict=True):
        said = [[candidate[:2] for candidate in row["candidates"]] for row in (one, other)]
        assert said[0] == said[1], one["row_id"]
        for part in ("signals", "verdicts", "candidates"):
            assert numbers(one[part]) == pytest.approx(numbers(other[part]), abs=1e-4), (one["row_id"], part)
