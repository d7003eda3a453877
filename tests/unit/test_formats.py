"""Reading data as it comes: layouts, containers, ids, and every way in which a file can be bad."""

from __future__ import annotations

import csv
import datetime as dt
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish._types import Message, Role
from burnish.coordinator.content import as_json
from burnish.coordinator.errors import DataError
from burnish.coordinator.formats import Columns, Container, IdKind, Layout, load, rewritten_record, to_messages
from burnish.coordinator.formats import files as files_module
from burnish.coordinator.formats.arrow import arrow_batch, decode_schema, encode_schema, roomy_schema, writable_schema
from burnish.coordinator.formats.dataset import MAX_PROBLEMS, glance

ALPACA = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hello."},
]
SHAREGPT = [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "So long"},
        ]
    }
]


def write(path: Path, rows: Any) -> Path:
    """Rows in the container that the name asks for."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".arrow":
        table = pa.Table.from_pylist(rows)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet", ".csv", ".arrow"])
def test_alpaca_in_every_container(tmp_path: Path, suffix: str) -> None:
    data = load(write(tmp_path / f"a{suffix}", ALPACA))
    assert data.info.layout is Layout.ALPACA
    assert data.samples[0].user_text == "Add.\n1 and 2"
    assert data.samples[1].user_text == "Greet."
    assert [s.response for s in data.samples] == ["3", "Hello."]
    assert [s.id for s in data.samples] == ["row-000001", "row-000002"]
    assert list(data.records) == ALPACA


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_conversations_in_every_container(tmp_path: Path, suffix: str) -> None:
    chat = load(write(tmp_path / f"m{suffix}", MESSAGES))
    assert chat.info.layout is Layout.MESSAGES
    assert [m.role for m in chat.samples[0].messages] == [
        Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT,
    ]  # fmt: skip
    shared = load(write(tmp_path / f"s{suffix}", SHAREGPT))
    assert shared.info.layout is Layout.SHAREGPT
    assert shared.samples[0].messages == (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello"))


def test_a_csv_cell_may_hold_a_conversation_as_json(tmp_path: Path) -> None:
    rows = [{"messages": json.dumps(MESSAGES[0]["messages"]), "n": "1"}]
    assert len(load(write(tmp_path / "m.csv", rows)).samples[0].messages) == 5


def test_alpaca_with_system_and_history() -> None:
    record = {
        "instruction": "And now?", "input": None, "output": "Later.", "system": "Be kind.", "history": [["Now?", "No."]]
    }  # fmt: skip
    messages = to_messages(record, Layout.ALPACA, Columns())
    assert [m.content for m in messages] == ["Be kind.", "Now?", "No.", "And now?", "Later."]


def test_an_empty_history_is_none(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("instruction,output,history\nHi,Hello,\n", encoding="utf-8")
    (sample,) = load(path).samples
    assert len(sample.messages) == 2


def test_columns_may_be_called_something_else(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{"question": "2+2?", "answer": "4", "level": 1}])
    data = load(path, columns=Columns(instruction="question", output="answer"))
    assert data.samples[0].user_text == "2+2?"
    new = rewritten_record(
        (Message(Role.USER, "1+1?"), Message(Role.ASSISTANT, "2")),
        data.info.layout, data.info.columns, data.records[0], keep_unknown=True,
    )  # fmt: skip
    assert new == {"question": "1+1?", "answer": "2", "level": 1}


def test_json_lines_in_a_json_file_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_text("\ufeff" + "\n".join(json.dumps(row) for row in ALPACA), encoding="utf-8")
    assert len(load(path).samples) == 2


def test_a_list_longer_than_the_buffer_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_CHARS_PER_READ", 7)
    rows = [{"instruction": f'Say {i}, "ä" ]', "input": "", "output": "x" * (i % 50 + 1)} for i in range(200)]
    assert list(load(write(tmp_path / "long.json", rows)).records) == rows


def test_files_of_a_folder_and_of_a_glob_are_read_by_name(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        write(tmp_path / name, [{"instruction": name, "output": "x"}])
    write(tmp_path / "dataset_info.json", {"a": 1})
    (tmp_path / "README.md").write_text("no data")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    write(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.jsonl", [{"instruction": "an editor's copy", "output": "x"}])
    (tmp_path / "c.parquet").mkdir()  # Spark names folders so
    assert [s.user_text for s in load(tmp_path).samples] == ["a.jsonl", "b.jsonl"]
    assert [s.user_text for s in load(str(tmp_path / "?.jsonl")).samples] == ["a.jsonl", "b.jsonl"]
    assert [s.user_text for s in load([tmp_path / "b.jsonl", tmp_path / "a.jsonl"]).samples] == ["b.jsonl", "a.jsonl"]


def test_a_saved_hugging_face_data_set(tmp_path: Path) -> None:
    saved = tmp_path / "saved" / "train"
    saved.mkdir(parents=True)
    for i, row in enumerate(ALPACA):
        write(saved / f"data-{i:05d}-of-00002.arrow", [row])
    names = [{"filename": f"data-{i:05d}-of-00002.arrow"} for i in (0, 1)]
    (saved / "state.json").write_text(json.dumps({"_data_files": names, "_fingerprint": "x"}))
    (saved / "dataset_info.json").write_text("{}")
    assert list(load(saved).records) == ALPACA
    assert load(saved).info.container is Container.ARROW
    (saved.parent / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    assert len(load(saved.parent).samples) == 2
    (saved.parent / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(DataError, match=r"splits train, test; name the one to use"):
        load(saved.parent)


def test_values_that_json_cannot_hold_become_text(tmp_path: Path) -> None:
    row = {
        "instruction": "Hi",
        "output": "Ho",
        "day": dt.date(2020, 1, 2),
        "price": decimal.Decimal("1.50"),
        "raw": b"\x00",
        "nested": {"at": dt.date(2020, 1, 2)},
    }
    data = load(write(tmp_path / "odd.parquet", [row]))
    assert data.records[0]["day"] == "2020-01-02"
    assert data.records[0]["price"] == "1.50"
    assert data.records[0]["raw"] == "AA=="
    assert data.records[0]["nested"] == {"at": "2020-01-02"}


def there_and_back(folder: Path, columns: dict[str, pa.Array]) -> tuple[list[dict[str, Any]], pa.RecordBatch]:
    """The records of Arrow columns as the ledger keeps them, and those as they are written. Parquet takes them."""
    (rows,) = {len(column) for column in columns.values()}
    table = pa.table({"instruction": ["Hi"] * rows, "output": ["Ho"] * rows, **columns})
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    records = [json.loads(as_json(record)) for record in load(folder / "data.arrow").records]
    schema = writable_schema(decode_schema(encode_schema(table.schema)))
    batch = arrow_batch(records, schema)
    pq.write_table(pa.Table.from_batches([batch]), folder / "back.parquet")
    return records, batch


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_come_back_to_the_last_digit(tmp_path: Path, unit: str) -> None:
    whole, kind = (pa.int32(), pa.time32(unit)) if unit in ("s", "ms") else (pa.int64(), pa.time64(unit))
    day = 86400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    times = pa.array([0, 1, 36_001, day - 1, None], whole).cast(kind)
    records, batch = there_and_back(tmp_path, {"at": times, "again": times.dictionary_encode()})
    assert batch["at"].equals(times)
    assert batch["again"].equals(times)
    finer = arrow_batch(records, pa.schema([("at", pa.time64("ns"))]))  # where another file's unit is that
    assert finer["at"].equals(times.cast(pa.time64("ns")))


DAY, NOON, ID = (
    dt.date(2020, 1, 2),
    dt.datetime(2020, 1, 2, 12, tzinfo=dt.UTC),
    uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e"),
)


def extended(kind: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def dictionary(values: pa.Array) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), values)


@pytest.mark.parametrize(
    ("column", "first"),
    [
        (extended(pa.uuid(), [ID.bytes, None]), str(ID)),
        (extended(pa.bool8(), [1, None]), True),
        (extended(pa.json_(), ['{"a": 1}', None]), '{"a": 1}'),
        (extended(pa.opaque(pa.date32(), "day", "us"), [DAY, None]), "2020-01-02"),
        (extended(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], None]), [1, 2]),
        (pa.array([b"a", None], pa.binary_view()), "YQ=="),
        (dictionary(pa.array([DAY])), "2020-01-02"),
        (dictionary(pa.array([NOON], pa.timestamp("ns", "UTC"))), "2020-01-02 12:00:00.000000000Z"),
        (dictionary(pa.array([decimal.Decimal("1.50")], pa.decimal32(3, 2))), "1.50"),
        (dictionary(pa.array([5], pa.duration("us"))), 5),
        (dictionary(pa.array([b"a"])), "YQ=="),
        (dictionary(pa.array([b"a"], pa.binary(1))), "YQ=="),
        (dictionary(pa.array(["a"])), "a"),
        (dictionary(pa.array(["a"], pa.large_string())), "a"),
        (dictionary(pa.array(["a"], pa.string_view())), "a"),
        (dictionary(pa.array([["a"]])), ["a"]),
        (dictionary(pa.array([1.5])), 1.5),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_of_odd_types_are_json_and_come_back(tmp_path: Path, column: pa.Array, first: object) -> None:
    records, batch = there_and_back(tmp_path, {"odd": column})
    assert [record["odd"] for record in records] == [first, None]
    back = batch["odd"]
    if pa.types.is_dictionary(column.type) and back.type != column.type:  # one that Parquet does not hold
        assert back.type == column.type.value_type
    else:
        assert back.type == column.type
    assert back.to_pylist() == column.to_pylist()


def test_odd_values_inside_of_others_come_back_as_json(tmp_path: Path) -> None:
    ids = pa.ListArray.from_arrays([0, 1], extended(pa.uuid(), [ID.bytes]))
    days = pa.ListArray.from_arrays([0, 1], pa.array([DAY]).dictionary_encode())
    records, batch = there_and_back(tmp_path, {"ids": ids, "days": days})
    assert (records[0]["ids"], records[0]["days"]) == ([str(ID)], ["2020-01-02"])
    assert (batch["ids"].to_pylist(), batch["days"].to_pylist()) == ([f'["{ID}"]'], ['["2020-01-02"]'])


TURNS = [{"role": "user", "content": "Hé"}]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.json_(), pa.json_(pa.large_string()),
        pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()),
        pa.dictionary(pa.int8(), pa.string_view()), pa.dictionary(pa.int8(), pa.json_()),
    ],
    ids=str,
)  # fmt: skip
def test_a_conversation_is_written_as_json_to_every_column_of_text(kind: pa.DataType) -> None:
    schema = writable_schema(roomy_schema(pa.schema([("messages", kind)]), ["messages"]))
    texts = [json.dumps([{"role": "user", "content": f"{n}"}]) for n in range(300)]  # more than an int8 can count
    column = arrow_batch([{"messages": value} for value in (TURNS, None, *texts)], schema)["messages"]
    assert column.to_pylist() == ['[{"role": "user", "content": "Hé"}]', None, *texts]


# ---- ids


@pytest.mark.parametrize(
    ("ids", "kind", "first", "warning"),
    [
        (["a", "b"], IdKind.TEXT, "a", None),
        ([7, 3], IdKind.NUMBER, "7", None),
        (["a", "a"], IdKind.GENERATED, "row-000001", "holds duplicates (the first: 'a')"),
        ([1, "1"], IdKind.GENERATED, "row-000001", "holds duplicates"),
        ([1, "b"], IdKind.GENERATED, "row-000001", "is not all text"),
        (["a", None], IdKind.GENERATED, "row-000001", "is missing or null in 1 of 2 rows"),
        ([True, False], IdKind.GENERATED, "row-000001", "is not all text"),
        (["", "b"], IdKind.GENERATED, "row-000001", "is not all text"),
        (["x" * 300, "b"], IdKind.GENERATED, "row-000001", "is not all text"),
        ([None, None], IdKind.GENERATED, "row-000001", None),
    ],
)
def test_ids_are_the_sources_own_where_they_serve(
    tmp_path: Path, ids: list[object], kind: IdKind, first: str, warning: str | None
) -> None:
    rows = [{"id": value, "instruction": "Hi", "output": "Ho"} for value in ids]
    data = load(write(tmp_path / "i.jsonl", rows))
    assert data.info.ids is kind
    assert data.samples[0].id == first
    assert (warning in data.warnings[0]) if warning else (data.warnings == ())


def test_uuids_serve_as_ids(tmp_path: Path) -> None:
    table = pa.table({
        "id": extended(pa.uuid(), [ID.bytes, bytes(16)]), "instruction": ["Hi", "Hi"], "output": ["Ho", "Ho"]
    })  # fmt: skip
    pq.write_table(table, tmp_path / "data.parquet")
    data = load(tmp_path / "data.parquet")
    assert data.info.ids is IdKind.TEXT
    assert [sample.id for sample in data.samples] == [str(ID), "00000000-0000-0000-0000-000000000000"]


# ---- bad input, one case each

GOOD = {"instruction": "Hi", "output": "Ho"}
BAD_ROWS = [
    ({"instruction": "Hi", "output": ""}, '"output" is empty; expected the response as text'),
    ({"instruction": "Hi", "output": " \n"}, '"output" is empty'),
    ({"instruction": "Hi", "output": None}, '"output" is empty'),
    ({"instruction": "", "input": "", "output": "Ho"}, '"instruction" is empty; expected the prompt'),
    ({"instruction": {"text": "Hi"}, "output": "Ho"}, '"instruction" is an object; expected text'),
    ({"instruction": "Hi", "output": ["Ho"]}, '"output" is a list; expected text'),
    ({"instruction": "Hi", "output": 4}, '"output" is a number; expected text'),
    ({"instruction": "Hi", "input": {"a": 1}, "output": "Ho"}, '"input" is an object; expected text'),
    ({"instruction": "Hi", "output": "Ho", "history": [["a"]]}, '"history" must be a list of [prompt, response]'),
    ({"instruction": "Hi\ud800", "output": "Ho"}, "half of a surrogate pair"),
    ([1, 2], "is [1, 2]; expected an object"),
    (None, "is null; expected an object"),
    ({"messages": None}, '"messages" is missing or null; expected a list of objects'),
    ({"messages": []}, "the conversation is empty"),
    ({"messages": [{"role": "user", "content": "Hi"}]}, "ends with a user message; expected the response last"),
    ({"messages": [{"role": "tool", "content": "Hi"}]}, "message 1: the role is 'tool'; expected system, user"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "message 1: the content is a list; expected text",
    ),
    (
        {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]},
        "message 1 (a system message not counted) is by assistant; expected user",
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]},
        "message 2, by assistant, is empty",
    ),
    (
        {"conversations": [{"from": "robot", "value": "x"}]},
        "turn 1: the speaker is 'robot'; expected one of human, gpt",
    ),
    ({"conversations": [{"from": "human", "value": None}]}, "turn 1: the text is missing or null; expected text"),
    ({"instruction": "a", "output": "b", "history": 1}, '"history" must be a list of [prompt, response] pairs of text'),
    ({"conversations": "Hi"}, "is text that is not JSON (Expecting value at column 1); expected a list of turns"),
]


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS, ids=[problem[:40] for _, problem in BAD_ROWS])
def test_a_bad_row_is_named_with_its_place(tmp_path: Path, row: Any, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        load(path)
    assert f"{path}, row 1: " in str(error.value)
    assert problem in str(error.value)
    assert "--skip-bad-rows" in str(error.value)


def test_rows_are_counted_by_line_in_jsonl_and_by_element_in_json(tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(f"{json.dumps(GOOD)}\n\n{{broken\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"lines.jsonl, row 3: is not JSON .* at column 2"):
        load(lines)
    elements = write(tmp_path / "list.json", [GOOD, GOOD, {"x": 1}])
    with pytest.raises(DataError, match=r"list.json, row 3: the columns are"):
        load(elements)


def test_problems_are_collected_up_to_a_number(tmp_path: Path) -> None:
    path = write(tmp_path / "many.jsonl", [{"instruction": "Hi", "output": ""}] * (MAX_PROBLEMS + 30))
    with pytest.raises(DataError) as error:
        load(path)
    assert len(error.value.problems) == MAX_PROBLEMS
    assert f"at least {MAX_PROBLEMS} rows are no training sample" in str(error.value)


def test_bad_rows_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "some.jsonl", [{"x": 1}, GOOD, {"instruction": "Hi", "output": ""}])
    data = load(path, skip_bad_rows=True)
    assert [s.user_text for s in data.samples] == ["Hi"]
    assert data.warnings[0].startswith("2 bad rows were left out; the first: ")
    only_bad = write(tmp_path / "bad.jsonl", [{"instruction": "Hi", "output": ""}])
    with pytest.raises(DataError, match="all 1 rows are bad"):
        load(only_bad, skip_bad_rows=True)


def test_mixed_formats_are_refused_with_both_places(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [GOOD])
    write(tmp_path / "b.json", SHAREGPT)
    with pytest.raises(DataError, match=r"a.jsonl, row 1 is alpaca, .*b.json, row 1 is sharegpt; expected one format"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "there is nothing to work on: empty"),
        ("empty.json", b"[]", "there is nothing to work on: empty"),
        ("blank.json", b" \n ", "there is nothing to work on: empty"),
        (
            "latin.jsonl",
            b'{"instruction": "a", "output": "b"}\n{"output": "\xe4"}',
            "line 2, byte 13 (0xe4) is not UTF-8",
        ),
        ("torn.json", b'[{"instruction": "a", "output": "b"}, {"instr', "the JSON breaks in row 2"),
        (
            "two.json",
            b'[{"instruction": "a", "output": "b"}]\n[{"instruction": "c"}]',
            "after its list, of 1 rows,",
        ),
        ("torn.parquet", b"PAR1 nothing", "cannot be read as parquet"),
        ("torn.arrow", b"nothing", "cannot be read as arrow"),
        ("more.csv", b"instruction,output\na,b,c\n", "row 1: has another number of cells than the header"),
        ("less.csv", b"instruction,output\na\n", "row 1: has another number of cells than the header"),
        ("twice.csv", b"instruction,output,output\na,b,c\n", "column 'output' is there more than once"),
        ("data.txt", b"hello", "the kind of file is not known by its ending; expected a .json"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        load(tmp_path / name)
    assert message in str(error.value)
    assert name in str(error.value)


def test_blanks_after_a_list_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_CHARS_PER_READ", 16)
    (tmp_path / "data.json").write_text('[{"instruction": "a", "output": "b"}]' + " \n" * 40)
    assert len(load(tmp_path / "data.json").samples) == 1


def test_columns_without_a_name_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("instruction,output,,\na,b,c,d\n")
    (row,) = load(tmp_path / "data.csv").records
    assert row == {"instruction": "a", "output": "b", "unnamed 3": "c", "unnamed 4": "d"}


def test_columns_of_one_name_are_refused_in_tables(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "data.parquet")
    with pa.ipc.new_file(tmp_path / "data.arrow", table.schema) as writer:
        writer.write_table(table)
    for name in ("data.parquet", "data.arrow"):
        with pytest.raises(DataError, match=rf"{name}: column 'text' is there more than once"):
            load(tmp_path / name)


@pytest.mark.parametrize("name", ["missing.json", "missing/*.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"missing.*expected a \.json"):
        load(str(tmp_path / name))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no data file"):
        load(tmp_path)


# ---- writing back

NEW = (Message(Role.USER, "New?"), Message(Role.ASSISTANT, "Yes."))


def test_a_rewritten_alpaca_row_keeps_its_columns_and_their_order() -> None:
    record = {"source": "x", "output": "old", "input": "i", "instruction": "q", "tags": [1]}
    kept = rewritten_record(NEW, Layout.ALPACA, Columns(), record, keep_unknown=True)
    assert list(kept.items()) == [
        ("source", "x"), ("output", "Yes."), ("input", ""), ("instruction", "New?"), ("tags", [1]),
    ]  # fmt: skip
    bare = rewritten_record(NEW, Layout.ALPACA, Columns(), record, keep_unknown=False)
    assert bare == {"output": "Yes.", "input": "", "instruction": "New?"}


def test_empty_columns_stay_empty_in_their_own_way() -> None:
    record = {"instruction": "q", "input": None, "output": "a", "system": None, "history": [["x", "y"]]}
    row = rewritten_record(NEW, Layout.ALPACA, Columns(), record, keep_unknown=True)
    assert row == {"instruction": "New?", "input": None, "output": "Yes.", "system": None, "history": []}


def test_a_rewritten_conversation_keeps_its_words_for_the_roles() -> None:
    record = {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "n": 1}
    row = rewritten_record(NEW, Layout.SHAREGPT, Columns(), record, keep_unknown=True)
    assert row["conversations"] == [{"role": "user", "content": "New?"}, {"role": "assistant", "content": "Yes."}]
    apart = {"system": "Be kind.", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    with_system = (Message(Role.SYSTEM, "Be kind."), *NEW)
    assert rewritten_record(with_system, Layout.SHAREGPT, Columns(), apart, keep_unknown=True) == {
        "system": "Be kind.",
        "conversations": [{"from": "human", "value": "New?"}, {"from": "gpt", "value": "Yes."}],
    }


@pytest.mark.parametrize("as_text", [False, True])
def test_another_response_leaves_all_else_that_the_turns_say(as_text: bool) -> None:
    def rewritten(layout: Layout, name: str, turns: list[dict[str, Any]], messages: tuple[Message, ...]) -> Any:
        record = {name: json.dumps(turns) if as_text else turns}
        return rewritten_record(messages, layout, Columns(), record, keep_unknown=True)[name]

    old = Message(Role.USER, "q"), Message(Role.ASSISTANT, "a"), Message(Role.USER, "q2")
    corrected = (*old, Message(Role.ASSISTANT, "new"))
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "q", "name": "x"},
        {"role": "assistant", "content": "a", "weight": 0, "tool_calls": []},
        {"content": "q2", "role": "user"},
        {"role": "assistant", "content": "b", "weight": 1},
    ]
    expected = [*chat[:3], {"role": "assistant", "content": "new", "weight": 1}]
    assert rewritten(Layout.MESSAGES, "messages", chat, corrected) == expected
    assert rewritten(Layout.SHAREGPT, "conversations", chat, corrected) == expected
    talk: list[dict[str, Any]] = [
        {"from": "human", "value": "q"},
        {"from": "bard", "value": "a", "loss": False},
        {"from": "user", "value": "q2"},
        {"from": "gpt", "value": "b", "loss": True},
    ]
    assert rewritten(Layout.SHAREGPT, "conversations", talk, corrected) == [*talk[:3], talk[3] | {"value": "new"}]
    bare = [{"role": "user", "content": "New?"}, {"role": "assistant", "content": "Yes."}]
    assert rewritten(Layout.MESSAGES, "messages", chat, NEW) == bare  # another conversation has none of it


@pytest.mark.parametrize(
    ("layout", "record"), [(Layout.ALPACA, ALPACA[0]), (Layout.SHAREGPT, SHAREGPT[0]), (Layout.MESSAGES, MESSAGES[0])]
)
def test_what_is_written_reads_back_as_the_same_conversation(layout: Layout, record: dict[str, Any]) -> None:
    messages = to_messages(MESSAGES[0], Layout.MESSAGES, Columns())
    row = rewritten_record(messages, layout, Columns(), record, keep_unknown=True)
    assert to_messages(row, layout, Columns()) == messages


@pytest.mark.parametrize("skip_bad_rows", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.json", '[{"question": "Q", "answer": "A"}, {"question": "Q", "answer": "A"}]', ("question", "answer")),
        ("b.jsonl", '{"prompt": "Q", "completion": "A", "score": 1}', ("prompt", "completion")),
        ("c.csv", "ask,say\nQ,A\n", ("PROMPT", "RESPONSE")),
        ("none.json", "[{}]", ("PROMPT", "RESPONSE")),
        ("d.csv", "instruction;output\nQ;A\n", "something else than a comma"),
        ("dolly.jsonl", '{"instruction": "Q", "context": "", "response": "A"}', "names: --column output=response."),
        ("io.json", '[{"input": "Q", "output": "A"}]', "names: --column instruction=input."),
        ("f.jsonl", '{"dialog": [{"role": "user", "content": "Q"}]}', "--column messages=dialog."),
        ("g.jsonl", '{"n": 1, "turns": [{"from": "human", "value": "Q"}]}', "--column conversations=turns."),
        ("e.json", '{"data": [{"instruction": "Q", "output": "A"}]}', 'what is below "data"'),
    ],
)
def test_columns_that_no_row_has_are_told_once_with_what_may_be_meant(
    tmp_path: Path, name: str, content: str, hint: str | tuple[str, str], skip_bad_rows: bool
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name, skip_bad_rows=skip_bad_rows)
    said = str(caught.value)
    if isinstance(hint, tuple):
        hint = f"--column instruction={hint[0]} --column output={hint[1]}"
    assert hint in said
    assert said.count('expected "instruction"') == 1
    assert "--skip-bad-rows" not in said


def test_a_name_of_a_hub_is_told_how_to_come_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r'asks no hub.*load_dataset\("tatsu-lab/alpaca"'):
        load("tatsu-lab/alpaca")
    (tmp_path / "data").mkdir()
    for other in ("/tatsu-lab/alpaca", "./alpaca", "../alpaca", "data/alpaca", "more/alpca.jsonl"):
        with pytest.raises(DataError) as caught:
            load(other)
        assert "hub" not in str(caught.value), other


def test_a_glance_reads_no_further_than_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = {"instruction": "Hi", "output": ""}, {"instruction": "Hi", "output": "Ho"}
    few = write(tmp_path / "few.jsonl", [bad, good, "no row"])
    glance([few], Columns())
    many = write(tmp_path / "many.jsonl", [bad] * MAX_PROBLEMS + [good])
    with pytest.raises(DataError, match=f"at least {MAX_PROBLEMS} rows"):
        glance([many], Columns())
    glance([many], Columns(), skip_bad_rows=True)
    for rows in ([], ["no row"] * 3):
        with pytest.raises(DataError):
            glance([write(tmp_path / "none.jsonl", rows)], Columns())
