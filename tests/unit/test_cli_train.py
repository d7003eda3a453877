"""What `burnish train` hands to the training service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish.cli.train import _write
from burnish.coordinator.errors import DataError


def rows(path: Path, *weights: object) -> Path:
    lines = [
        {"id": f"r{number}", "instruction": "Q?", "output": "A.", "trust": weight}
        for number, weight in enumerate(weights)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_column_says_what_rows_count(tmp_path: Path) -> None:
    data = rows(tmp_path / "data.jsonl", 1, 0.25, "2")
    path, _ = _write(tmp_path / "out.jsonl", [str(data)], False, "trust")
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["weight"] for line in written] == [1.0, 0.25, 2.0]
    assert [line["id"] for line in written] == ["r0", "r1", "r2"]
    path, _ = _write(tmp_path / "plain.jsonl", [str(data)], False, None)
    assert "weight" not in json.loads(path.read_text(encoding="utf-8").splitlines()[0])


def test_a_weight_that_is_none_is_named(tmp_path: Path) -> None:
    data = rows(tmp_path / "data.jsonl", 1, "much")
    with pytest.raises(DataError, match="Row r1: column 'trust', its weight, is 'much'; expected a number >= 0"):
        _write(tmp_path / "out.jsonl", [str(data)], False, "trust")
    with pytest.raises(DataError, match="is not there; it has id, instruction, output, trust"):
        _write(tmp_path / "out.jsonl", [str(data)], False, "weight")
