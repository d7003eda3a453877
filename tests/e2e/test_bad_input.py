"""What a user meets who gives `burnish run` something wrong: the exit code, and one paragraph that says what was wrong,
what was expected and what to do. (Ctrl-C, a full disk and kill -9 are in test_resume_kill.py.)"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from burnish.coordinator.ledger import Ledger, locked
from burnish.coordinator.paths import RunPaths
from tests.e2e.commands import burnish
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import alpaca, history, write_jsonl

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


def run(services: FakeEngineServices, data: Path, out: Path, *more: object) -> Result:
    return burnish(
        *("run", "middo", "--endpoint", services.address, "--model", services.model, "--data", data, "--out", out),
        *more,
    )


def complained(result: Result, code: int, phrases: Sequence[str]) -> None:
    """The last thing said is the complaint; before it may stand how far the run had come."""
    said = " ".join(result.stderr.split())
    assert result.exit_code == code, said
    assert result.stdout == ""
    assert "Traceback" not in said
    _, mark, complaint = said.partition("burnish: ")
    assert mark, said
    for phrase in phrases:
        assert phrase in complaint


BAD_DATA: list[tuple[str, bytes | None, list[str]]] = [
    ("missing.jsonl", None, ["missing.jsonl", "no such file"]),
    ("empty.jsonl", b"", ["empty.jsonl", "there is nothing to work on"]),
    ("none.json", b"[]", ["none.json", "there is nothing to work on"]),
    (
        "row.jsonl",
        b'{"instruction": "a", "output": "b"}\n{"question": "a", "answer": "b"}\n',
        ["row.jsonl, row 2", 'the columns are "question", "answer"', 'expected "instruction" and "output"'],
    ),
    ("half.jsonl", b'{"instruction": "a", "output": "b"}\n{"instr', ["half.jsonl, row 2", "is not JSON"]),
    (
        "mixed.jsonl",
        b'{"instruction": "a", "output": "b"}\n' + json.dumps(CHAT).encode(),
        ["mixed.jsonl, row 1", "mixed.jsonl, row 2", "alpaca", "messages"],
    ),
    ("silent.jsonl", b'{"instruction": "a", "output": " "}\n', ["silent.jsonl, row 1", '"output" is empty']),
    ("latin.jsonl", b'{"instruction": "\xe4", "output": "b"}\n', ["latin.jsonl", "line 1", "is not UTF-8"]),
    ("notes.txt", b"hello", ["notes.txt", "expected a .json"]),
]


@pytest.mark.parametrize(("name", "content", "phrases"), BAD_DATA, ids=[name for name, _, _ in BAD_DATA])
def test_data_that_is_none(
    services: FakeEngineServices, tmp_path: Path, name: str, content: bytes | None, phrases: list[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    complained(run(services, tmp_path / name, tmp_path / "out"), 2, phrases)


def test_unknown_columns_travel_through(services: FakeEngineServices, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{**row, "task": {"deep": [n, None]}} for n, row in enumerate(alpaca(12))]
    result = run(services, write_jsonl(tmp_path / "data.jsonl", rows), tmp_path / "out", "--axis", "low_quality")
    assert result.exit_code == 0, result.stderr
    made = [json.loads(line) for line in (tmp_path / "out/final/data.jsonl").read_text().splitlines()]
    assert [row["task"] for row in made[:12]] == [row["task"] for row in rows]


def test_a_sample_longer_than_the_context_is_named_and_kept(services: FakeEngineServices, tmp_path: Path) -> None:
    rows = alpaca(12)
    rows[4]["output"] = "word " * 20_000
    result = run(services, write_jsonl(tmp_path / "data.jsonl", rows), tmp_path / "out", "--max-sequence-tokens", "400")
    assert result.exit_code == 0, result.stderr
    assert "1 samples were left out of training" in " ".join(result.stderr.split())
    made = [json.loads(line) for line in (tmp_path / "out/final/data.jsonl").read_text().splitlines()]
    assert rows[4] in made
    with history(tmp_path / "out") as h:
        assert {(f.step, f.reason, f.count) for f in h.failures(1)} >= {
            ("score_pre", "TOO_LONG", 1),
            ("score_post", "TOO_LONG", 1),
        }
        (decision,) = [d for d in h.decisions(1) if d.row_id == "s4"]
        assert "hard" not in decision.axes


def test_a_model_that_is_none(services: FakeEngineServices, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(3))
    (tmp_path / "folder").mkdir()
    result = run(services, data, tmp_path / "out", "--model", tmp_path / "folder")
    complained(result, 1, [str(tmp_path / "folder"), "holds no model: expected config.json"])  # says the service
    result = burnish("run", "middo", "--data", data, "--model", tmp_path / "folder", "--out", tmp_path / "here")
    complained(result, 2, [str(tmp_path / "folder"), "is no model", "config.json"])


def test_a_service_that_is_not_there(services: FakeEngineServices, tmp_path: Path) -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        data = write_jsonl(tmp_path / "data.jsonl", alpaca(3))
        arguments = ["--training-endpoint", services.address, "--rewriting-endpoint", services.address]
        result = burnish(
            *("run", "middo", "--data", data, "--model", services.model, "--out", tmp_path / "out", *arguments),
            *("--embedding-endpoint", services.address, "--scoring-endpoint", address),
        )
    complained(result, 3, ["scoring service", address, "Start it with `burnish up --roles scoring`"])


def test_a_service_without_an_address(services: FakeEngineServices, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(3))
    result = burnish(
        *("run", "middo", "--data", data, "--model", services.model, "--out", tmp_path / "out"),
        *("--scoring-endpoint", services.address),
    )
    complained(result, 2, ["embedding", "--embedding-endpoint", "BURNISH_EMBEDDING_ENDPOINT"])


def test_a_second_coordinator_on_the_same_ledger(services: FakeEngineServices, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(3))
    ledger = RunPaths(tmp_path / "out").ledger
    ledger.parent.mkdir()
    with Ledger.open(ledger):
        complained(run(services, data, tmp_path / "out"), 1, [str(ledger), "process"])


def test_another_run_in_the_same_folder(services: FakeEngineServices, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(12))
    assert run(services, data, tmp_path / "out", "--axis", "low_quality").exit_code == 0
    complained(run(services, data, tmp_path / "out", "--axis", "sparse"), 2, ["axes", "--out"])


def test_settings_out_of_range(services: FakeEngineServices, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(3))
    complained(run(services, data, tmp_path / "out", "--judge-temperature", "9"), 2, ["--judge-temperature 9", "2"])
    complained(
        run(services, data, tmp_path / "out", "--compat", "--max-rows", "3"), 2, ["--compat", "--max-rows", "leave out"]
    )


@pytest.mark.parametrize("place", ["", "nowhere/out.jsonl"])
def test_results_that_could_not_be_put_there_are_not_begun(tmp_path: Path, place: str) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(3))
    done = burnish("score", "--data", data, "--model", "base", "--endpoint", "127.0.0.1:1", "--out", tmp_path / place)
    assert done.exit_code == 2
    assert "expected a file in a folder that is there" in " ".join(done.stderr.replace("│", " ").split())


def test_a_command_beside_another_ends_before_it_starts_services(tmp_path: Path) -> None:
    data, out = write_jsonl(tmp_path / "data.jsonl", alpaca(3)), tmp_path / "out"
    out.mkdir()
    for recipe, words in (("run", []), ("sweep", ["--vary", "keep=0.5,0.7"])):
        with locked(out / "ledger.duckdb"):
            done = burnish(recipe, "filter", "--data", data, "--model", "base", "--out", out, *words)
        assert done.exit_code == 1, done.stderr
        assert "is being written by process" in " ".join(done.stderr.split())
        assert not (out / "services").exists()
