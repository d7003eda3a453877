"""Exports of a run that was put into a ledger by hand; whole runs are exported in tests/e2e/test_export.py."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish._types import Message, Role
from burnish.coordinator.book import RunBook
from burnish.coordinator.content import as_json, sample_hash
from burnish.coordinator.export import export
from burnish.coordinator.formats import IdKind, load
from burnish.coordinator.formats.arrow import encode_schema
from burnish.coordinator.history import RunHistory
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.verdict import Action, Verdict

IDS = [uuid.UUID(int=number) for number in range(3)]
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi", "weight": None},
    {"role": "assistant", "content": "Hello", "weight": 0},
    {"role": "user", "content": "Bye", "weight": None},
    {"role": "assistant", "content": "So long", "weight": 1},
]


def uuids(values: list[uuid.UUID]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array([value.bytes for value in values], pa.binary(16)))


def corrected(folder: Path, columns: Mapping[str, pa.Array], *, new_row: bool = False) -> pa.Table:
    """Parquet's columns as a run leaves them that gave its first row another response, and may have added a row."""
    source = folder / "source.parquet"
    pq.write_table(pa.table(dict(columns)), source)
    data = load(source)
    answer = (*data.samples[0].messages[:-1], Message(Role.ASSISTANT, "Farewell"))
    conversations = [sample.messages for sample in data.samples]
    rows = [DataRow(s.id, sample_hash(s.messages), "source", None, s.id) for s in data.samples]
    first = DataRow(rows[0].row_id, sample_hash(answer), "correct", None, rows[0].row_id)
    new_id = "1000" if data.info.ids is IdKind.NUMBER else f"{first.row_id}+d1"
    added = DataRow(new_id, sample_hash(answer), "diversify", first.row_id, first.row_id)
    with Ledger.open(folder / "ledger.duckdb") as ledger:
        book = RunBook(ledger, "clear-1")
        with book.transaction():
            book.begin("clear", {}, "0")
            book.set_source({**asdict(data.info), "arrow_schema": encode_schema(pq.read_schema(source))})
            book.add_source_rows(0, [as_json(record) for record in data.records])
            book.add_samples({sample_hash(messages): messages for messages in [*conversations, answer]})
            book.add_dataset(1, rows)
            book.add_decisions(1, [Verdict(first.row_id, (Action.CORRECT,), {}, ("Wins.",), (first.sample_hash,))])
            book.add_dataset(2, [first, *rows[1:], *([added] if new_row else [])])
    out = folder / "out"
    out.mkdir()
    (out / "dropped.jsonl").write_text("an earlier export's\n")
    with RunHistory.open(folder) as history:
        files = export(history, "source", out)
    assert sorted(out.iterdir()) == sorted(files)  # none of an earlier export
    return pq.read_table(files[0])


def alpaca(**more: pa.Array) -> dict[str, pa.Array]:
    texts = [pa.array([f"{word} {number}" for number in range(3)]) for word in ("Say", "Said")]
    return {"instruction": texts[0], "output": texts[1], **more}


def test_times_and_uuids_come_back_as_they_were(tmp_path: Path) -> None:
    columns = alpaca(
        id=uuids(IDS),
        milli=pa.array([1, None, 3], pa.int32()).cast(pa.time32("ms")),
        micro=pa.array([1, None, 86_399_999_999]).cast(pa.time64("us")),
        nano=pa.array([1, None, 3], pa.time64("ns")),
    )
    back = corrected(tmp_path, columns)
    assert back.schema.types == pa.table(columns).schema.types
    assert back["output"].to_pylist() == ["Farewell", "Said 1", "Said 2"]
    assert back.drop(["output"]).equals(pa.table(columns).drop(["output"]))


@pytest.mark.parametrize(
    "ids", [uuids(IDS), pa.array([b"1", b"2", b"3"]), pa.array([1, 2, 3], pa.date32())], ids=lambda ids: str(ids.type)
)
def test_ids_of_new_rows_are_text_where_the_sources_type_holds_none(tmp_path: Path, ids: pa.Array) -> None:
    back = corrected(tmp_path, alpaca(id=ids), new_row=True)
    assert back["id"].type == pa.string()
    assert back["id"].to_pylist()[3] == back["id"].to_pylist()[0] + "+d1"
    assert len(load(tmp_path / "out/data.parquet").samples) == 4


def test_ids_of_new_rows_are_wider_numbers_where_the_sources_type_holds_no_more(tmp_path: Path) -> None:
    back = corrected(tmp_path, alpaca(id=pa.array([125, 126, 127], pa.int8())), new_row=True)
    assert back["id"].to_pylist() == [125, 126, 127, 1000]


def test_turns_of_a_corrected_conversation_keep_their_fields(tmp_path: Path) -> None:
    back = corrected(tmp_path, {"messages": pa.array([CHAT, CHAT])})
    assert back["messages"].to_pylist() == [[*CHAT[:3], CHAT[3] | {"content": "Farewell"}], CHAT]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.json_(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_a_conversation_in_a_column_of_text_is_written_as_json(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [json.dumps([*CHAT[:3], CHAT[3] | {"number": number}]) for number in range(100)]
    column = pa.array(texts).dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else pa.array(texts, kind)
    back = corrected(tmp_path, {"messages": column})["messages"].to_pylist()
    assert json.loads(back[0]) == [*CHAT[:3], CHAT[3] | {"content": "Farewell", "number": 0}]
    assert back[1:] == texts[1:]


def test_columns_that_the_target_has_itself_are_renamed_and_none_is_lost(tmp_path: Path) -> None:
    names = pa.array(["web-1", "web-2", "web-3"])
    ours = {"id": pa.array([7, 7, 8]), "source_id": names, "origin": pa.array([1.5] * 3)}
    corrected(tmp_path, alpaca(**ours))
    with RunHistory.open(tmp_path) as history:
        files = export(history, "parquet", tmp_path / "out")
    made = pq.read_table(files[0])
    assert made.column("id").to_pylist() == ["row-000001", "row-000002", "row-000003"]
    assert made.column("source_id").to_pylist() == ["web-1", "web-2", "web-3"]
    assert made.column("source_source_id").to_pylist() == [7, 7, 8], "in its own type"
    assert made.column("source_origin").to_pylist() == [1.5] * 3
