"""What a run leaves: in the format that the data came in, and in those of other tools, with where each row is from."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish import Client
from burnish.coordinator.errors import InputError
from burnish.coordinator.export import ExportFormat, _write_list, export
from burnish.coordinator.formats import load
from burnish.coordinator.loop import run_recipe
from burnish.testing import FakeServices
from tests.e2e.support import alpaca, history, run, settings, write_jsonl

ROWS = 40


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with FakeServices() as services, Client(services.endpoints) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds on alpaca rows with ids and an unknown column."""
    folder = tmp_path_factory.mktemp("run")
    run(client, folder / "out", write_jsonl(folder / "data.jsonl", alpaca(ROWS, duplicates=2)), rounds=2, m_loss=0.3)
    return folder / "out"


def exported(out: Path, target: str, folder: Path) -> list[Any]:
    with history(out) as h:
        files = export(h, target, folder)
    assert all(file.exists() for file in files)
    text = files[0].read_text(encoding="utf-8")
    return json.loads(text) if files[0].suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def origins(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "provenance.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_sources_own_format_keeps_what_was_not_touched(finished: Path, tmp_path: Path) -> None:
    rows = exported(finished, "source", tmp_path)
    source = alpaca(ROWS, duplicates=2)
    for row, before, origin in zip(rows, source, origins(tmp_path), strict=False):
        if origin["origin"] == "source":
            assert list(row.items()) == list(before.items())  # input split off, unknown column there, order kept
        else:
            assert row["input"] == ""
            assert row["instruction"] != before["instruction"]
            assert (row["id"], row["task"]) == (before["id"], before["task"])
    new = rows[len(source) :]
    assert new
    assert all(set(row) == {"id", "instruction", "input", "output"} for row in new)
    assert len({row["id"] for row in rows}) == len(rows)
    assert rows == [json.loads(line) for line in (finished / "final/data.jsonl").read_text().splitlines()]


def test_provenance_says_what_made_each_row_and_why(finished: Path, tmp_path: Path) -> None:
    exported(finished, "source", tmp_path)
    rows = origins(tmp_path)
    assert {row["origin"] for row in rows} == {"source", "simplify", "improve", "diversify"}
    for row in rows:
        accepted = [action["action"] for action in row["actions"] if action["accepted"]]
        if row["origin"] != "source":
            assert row["origin"] in accepted
            assert row["reasons"]
            assert row["reasons"][0].startswith("Round ")
        if row["parent"] is None:
            assert row["row_id"] == row["source_row_id"]
        else:
            assert row["row_id"] != row["source_row_id"]
    with history(finished) as h:
        assert [row["row_id"] for row in rows] == [row.row_id for row in h.rows(3)]


def test_llamafactory_gets_its_description(finished: Path, tmp_path: Path) -> None:
    rows = exported(finished, "llamafactory", tmp_path)
    info = json.loads((tmp_path / "dataset_info.json").read_text())["burnish"]
    assert info["file_name"] == "data.json"
    assert info["formatting"] == "alpaca"
    assert info["columns"] == {"prompt": "instruction", "query": "input", "response": "output"}
    assert all({"instruction", "input", "output", "id"} <= set(row) for row in rows)
    kept = next(row for row in rows if row["input"])
    assert not kept["instruction"].endswith(kept["input"])


def test_trl_and_messages_hold_the_same_conversations(finished: Path, tmp_path: Path) -> None:
    pairs = exported(finished, "trl", tmp_path / "trl")
    chats = exported(finished, "messages", tmp_path / "messages")
    assert [row["prompt"] + row["completion"] for row in pairs] == [row["messages"] for row in chats]
    assert all(row["completion"][0]["role"] == "assistant" for row in pairs)
    assert load(tmp_path / "messages/data.jsonl").info.layout.value == "messages"
    assert chats[0]["task"] == "t0"


def test_alpaca_reads_back_as_the_same_conversations(finished: Path, tmp_path: Path) -> None:
    exported(finished, "alpaca", tmp_path / "alpaca")
    exported(finished, "messages", tmp_path / "messages")
    a, b = load(tmp_path / "alpaca/data.json"), load(tmp_path / "messages/data.jsonl")
    assert a.samples == b.samples


def test_what_was_measured_and_decided_of_every_row_of_every_round(finished: Path, tmp_path: Path) -> None:
    with history(finished) as h:
        (file,) = export(h, "signals", tmp_path / "signals")
        rounds = [dataset.round for dataset in h.datasets()]
        of_each = {number: [row.row_id for row in h.rows(number)] for number in rounds}
    written = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(one["round"], one["row_id"]) for one in written] == [
        (number, row_id) for number in rounds[:-1] for row_id in of_each[number]
    ]
    assert any("loss_pre" in one["signals"] for one in written)
    assert {action for one in written for action in one["actions"]} >= {"keep"}


def test_parquet_holds_conversations_ids_and_origins(finished: Path, tmp_path: Path) -> None:
    with history(finished) as h:
        files = export(h, ExportFormat.PARQUET, tmp_path)
    table = pq.read_table(files[0])
    assert table.column_names == ["messages", "id", "origin", "task"]
    exported(finished, "messages", tmp_path / "messages")
    assert load(files[0]).samples == load(tmp_path / "messages/data.jsonl").samples
    assert set(table["origin"].to_pylist()) == {"source", "simplify", "improve", "diversify"}


def test_an_earlier_round_may_be_exported_and_a_later_one_not(finished: Path, tmp_path: Path) -> None:
    with history(finished) as h:
        export(h, "source", tmp_path, round_number=1)
        assert [json.loads(x) for x in (tmp_path / "data.jsonl").read_text().splitlines()] == alpaca(ROWS, duplicates=2)
        assert {row["origin"] for row in origins(tmp_path)} == {"source"}
        with pytest.raises(InputError, match="no data set of round 9"):
            export(h, "source", tmp_path, round_number=9)


def test_unknown_columns_never_hide_what_a_format_needs(client: Client, tmp_path: Path) -> None:
    rows = [{"prompt": f"mine {i}", **row} for i, row in enumerate(alpaca(12))]
    run(client, tmp_path / "out", write_jsonl(tmp_path / "d.jsonl", rows), axes=["hard"])
    exported_rows = exported(tmp_path / "out", "trl", tmp_path / "trl")
    assert exported_rows[0]["source_prompt"] == "mine 0"
    assert isinstance(exported_rows[0]["prompt"], list)


def test_ids_that_are_numbers_stay_numbers(client: Client, tmp_path: Path) -> None:
    rows = [row | {"id": 100 + i} for i, row in enumerate(alpaca(ROWS))]
    run(client, tmp_path / "out", write_jsonl(tmp_path / "d.jsonl", rows), axes=["sparse"])
    out = [json.loads(line) for line in (tmp_path / "out/final/data.jsonl").read_text().splitlines()]
    assert [row["id"] for row in out] == list(range(100, 100 + len(out)))
    assert len(out) > ROWS


def odd_rows() -> pa.Table:
    """Columns that JSON cannot hold, in Arrow types of their own."""
    rows = alpaca(ROWS)
    table = pa.table({name: [row[name] for row in rows] for name in ("instruction", "input", "output")})
    extra = {
        "when": pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=i) for i in range(ROWS)]),
        "nanos": pa.array([1_600_000_000_000_000_001 + i for i in range(ROWS)], pa.timestamp("ns")),
        "day": pa.array([dt.date(2020, 1, 1)] * ROWS),
        "price": pa.array([decimal.Decimal("1.50")] * ROWS),
        "raw": pa.array([b"\x00\xff"] * ROWS),
        "weight": pa.array([0.1 * i for i in range(ROWS)], pa.float32()),
        "count": pa.array(range(ROWS), pa.int16()),
        "tags": pa.array([["a", "b"]] * ROWS),
        "kind": pa.array(["x", "y"] * (ROWS // 2)).dictionary_encode(),
        "maybe": pa.array([None] * ROWS, pa.string()),
        "took": pa.array([dt.timedelta(seconds=i) for i in range(ROWS)]),
    }
    for name, values in extra.items():
        table = table.append_column(name, values)
    return table


def test_parquet_comes_back_with_the_same_types_and_values(client: Client, tmp_path: Path) -> None:
    table = odd_rows()
    pq.write_table(table, tmp_path / "d.parquet")
    run(client, tmp_path / "out", tmp_path / "d.parquet")
    back = pq.read_table(tmp_path / "out/final/data.parquet")
    assert back.schema.types == table.schema.types
    assert back.column_names == table.column_names
    unknown = table.column_names[3:]
    assert back.slice(0, ROWS).select(unknown).equals(table.select(unknown))
    assert back.num_rows > ROWS
    assert back["count"].to_pylist()[ROWS:] == [None] * (back.num_rows - ROWS)
    for target in ExportFormat:
        with history(tmp_path / "out") as h:
            export(h, target, tmp_path / target.value)


def test_csv_comes_back_as_csv(client: Client, tmp_path: Path) -> None:
    rows = [{**row, "id": f"c{i}", "note": 'a "quoted", text'} for i, row in enumerate(alpaca(ROWS))]
    with (tmp_path / "d.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    run(client, tmp_path / "out", tmp_path / "d.csv")
    with (tmp_path / "out/final/data.csv").open(newline="", encoding="utf-8") as stream:
        back = list(csv.DictReader(stream))
    assert list(back[0]) == list(rows[0])
    assert all(row["note"] == 'a "quoted", text' for row in back[:ROWS])
    assert len(load(tmp_path / "out/final/data.csv").samples) == len(back) > ROWS


def chat(i: int, turns: int) -> dict[str, Any]:
    conversation = [{"from": "system", "value": f"Be {i}."}]
    for turn in range(turns):
        conversation += [
            {"from": "human", "value": f"Question {i} {turn} about {i * 7 % 11}"},
            {"from": "gpt", "value": " ".join(f"w{j}" for j in range(i % 9 + 2))},
        ]
    return {"conversations": conversation, "lang": "en"}


def test_conversations_of_several_turns_come_back_and_go_out_to_every_tool(client: Client, tmp_path: Path) -> None:
    rows = [chat(i, 1 + i % 3) for i in range(ROWS)]
    (tmp_path / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    run_recipe(settings(tmp_path / "d.json"), client, tmp_path / "out")
    final = json.loads((tmp_path / "out/final/data.json").read_text())
    kept = [o["origin"] == "source" for o in origins(tmp_path / "out/final")]
    assert all(row == before for row, before, same in zip(final, rows, kept, strict=False) if same)
    assert all(turn["from"] in ("system", "human", "gpt") for row in final for turn in row["conversations"])
    flat = exported(tmp_path / "out", "llamafactory", tmp_path / "lf")
    info = json.loads((tmp_path / "lf/dataset_info.json").read_text())["burnish"]
    assert info["formatting"] == "sharegpt"
    assert info["tags"]["assistant_tag"] == "assistant"
    assert flat[0]["messages"][0] == {"role": "system", "content": "Be 0."}
    exported(tmp_path / "out", "alpaca", tmp_path / "alpaca")
    exported(tmp_path / "out", "messages", tmp_path / "messages")
    assert load(tmp_path / "alpaca/data.json").samples == load(tmp_path / "messages/data.jsonl").samples


def test_odd_values_of_unknown_columns_come_back_or_become_text(client: Client, tmp_path: Path) -> None:
    odd = [{"x": 1, "note": "half \ud800"}, {"x": "a", "origin": "web"}, {"x": None, "meta": {}}, {"meta": {}}]
    nested = {"nested": {"source": "x", "url": None}}
    rows = [{**row, **odd[number % 4], **nested} for number, row in enumerate(alpaca(12))]
    run(client, tmp_path / "out", write_jsonl(tmp_path / "data.jsonl", rows))
    with history(tmp_path / "out") as h:
        (path,) = export(h, "parquet", tmp_path / "parquet")[:1]
        untouched = {row.row.row_id: row.record for row in h.final_rows(2) if row.row.origin == "source"}
    assert untouched
    for row in exported(tmp_path / "out", "source", tmp_path / "source"):
        if row.get("id") in untouched:
            assert row == untouched[row["id"]]
    table = {row["id"]: row for row in pq.read_table(path).to_pylist()}
    for row_id, record in untouched.items():
        found = table[row_id]
        assert (found["origin"], found["source_origin"]) == ("source", record.get("origin"))
        assert found["x"] == (None if record.get("x") is None else str(record["x"]))
        assert found["nested"] == {"source": "x", "url": None}
    for row in exported(tmp_path / "out", "messages", tmp_path / "messages"):
        if row["id"] in untouched:
            assert row.get("origin") == untouched[row["id"]].get("origin")


def test_a_set_without_rows_is_an_empty_list(tmp_path: Path) -> None:
    assert json.loads(_write_list(tmp_path / "data.json", []).read_text()) == []
