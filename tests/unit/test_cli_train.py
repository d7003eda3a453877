"""What `burnish train` hands to the training service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish import Client
from burnish._types import ModelRef, RunSpec
from burnish.cli.data import Reading
from burnish.cli.train import _create, _write
from burnish.coordinator.errors import DataError
from burnish.coordinator.formats import Columns
from burnish.testing import FakeServices
from tests.e2e.commands import burnish


def rows(path: Path, *weights: object) -> Path:
    lines = [
        {"id": f"r{number}", "instruction": "Q?", "output": "A.", "trust": weight}
        for number, weight in enumerate(weights)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_column_says_what_rows_count(tmp_path: Path) -> None:
    data = rows(tmp_path / "data.jsonl", 1, 0.25, "2")
    path, _ = _write(tmp_path / "out.jsonl", Reading((str(data),), Columns(), False), "trust")
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["weight"] for line in written] == [1.0, 0.25, 2.0]
    assert [line["id"] for line in written] == ["r0", "r1", "r2"]
    path, _ = _write(tmp_path / "plain.jsonl", Reading((str(data),), Columns(), False), None)
    assert "weight" not in json.loads(path.read_text(encoding="utf-8").splitlines()[0])


def test_ids_that_are_replaced_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": "x", "instruction": "Q?", "output": "A."}\n' * 2)
    path, _ = _write(tmp_path / "out.jsonl", Reading((str(data),), Columns(), False), None)
    ids = [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert ids == ["row-000001", "row-000002"]
    assert "holds duplicates (the first: 'x'); rows are called row-000001" in capsys.readouterr().err


def test_a_weight_that_is_none_is_named(tmp_path: Path) -> None:
    data = rows(tmp_path / "data.jsonl", 1, "much")
    with pytest.raises(DataError, match="Row r1: column 'trust', its weight, is 'much'; expected a number >= 0"):
        _write(tmp_path / "out.jsonl", Reading((str(data),), Columns(), False), "trust")
    with pytest.raises(DataError, match="is not there; it has id, instruction, output, trust"):
        _write(tmp_path / "out.jsonl", Reading((str(data),), Columns(), False), "weight")


def test_the_same_command_tries_once_more_where_it_ended_badly() -> None:
    spec = RunSpec(base_model=ModelRef("base"), data_uri="data.jsonl")
    with FakeServices(finish_runs=False) as fakes, Client(fakes.address) as client:
        first = _create(client.training, spec, None)
        assert _create(client.training, spec, None).run_id == first.run_id, "it is still under way"
        first.cancel()
        second = _create(client.training, spec, None)
        assert second.run_id != first.run_id
        second.cancel()
        fakes.finish_runs = True
        third = _create(client.training, spec, None)
        third.result()
        assert _create(client.training, spec, None).run_id == third.run_id
        named = _create(client.training, spec, "mine")
        named.cancel()
        assert _create(client.training, spec, "mine").run_id == named.run_id, "who names a run means that one"
    ids = list(dict.fromkeys(request.request_id for request in fakes.requests("CreateRun")))
    assert [name.partition("-a")[2] for name in ids] == ["", "2", "3", ""]


def test_other_held_out_data_or_another_model_by_the_same_path_is_another_run(tmp_path: Path) -> None:
    data, held_out = rows(tmp_path / "data.jsonl", 1, 1), rows(tmp_path / "eval.jsonl", 1)
    model = tmp_path / "model"
    model.mkdir()
    weights = model / "weights"
    weights.write_bytes(b"first")
    with FakeServices() as fakes:
        arguments = [
            *("train", "--endpoint", fakes.address, "--model", model, "--data", data, "--out", tmp_path / "out"),
            *("--eval-data", held_out, "--json"),
        ]

        def run_of() -> str:
            return str(json.loads(burnish(*arguments).stdout)["run_id"])

        first = run_of()
        assert run_of() == first
        rows(held_out, 1, 1)
        second = run_of()
        weights.write_bytes(b"other")
        assert len({first, second, run_of()}) == 3
