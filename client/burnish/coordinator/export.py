"""Writing a run's data set: in the format that it came in, or as other tools want it, with the provenance of each row.

    export(history, "llamafactory", folder)    data.json and dataset_info.json
    export(history, "source", folder)          the input's own format

Rows that no rewrite touched go out as they came in, all columns included. Replaced rows keep the columns that Burnish
does not know; new rows have none of them. Every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from burnish._types import Role
from burnish.coordinator.atomic import write_json, write_lines, writing_whole
from burnish.coordinator.content import as_json, message_list
from burnish.coordinator.errors import InputError
from burnish.coordinator.formats import Columns, Container, IdKind, Layout, rewritten_record
from burnish.coordinator.formats.arrow import arrow_batch, decode_schema, roomy_schema, wide_ids, writable_schema
from burnish.coordinator.formats.shapes import Record, alpaca_record, known_columns, to_messages
from burnish.coordinator.history import FinalRow, RunHistory
from burnish.coordinator.provenance import dropped, provenance

_BATCH = 1000


class ExportFormat(StrEnum):
    """What a data set can be written as."""

    SOURCE = "source"  # as it came
    LLAMAFACTORY = "llamafactory"
    TRL = "trl"
    MESSAGES = "messages"
    ALPACA = "alpaca"
    PARQUET = "parquet"
    SIGNALS = "signals"  # no data set: what was measured and decided of every row


@dataclass(frozen=True, slots=True)
class _Source:
    """How the data came; see formats.SourceInfo."""

    layout: Layout
    container: Container
    columns: Columns
    ids: IdKind
    column_names: tuple[str, ...]
    schema: pa.Schema | None


def export(
    history: RunHistory, target: ExportFormat | str, folder: Path, *, round_number: int | None = None
) -> list[Path]:
    """Writes the data set at the start of a round (None: the newest there is), `provenance.jsonl`, and
    `dropped.jsonl` where rows were dropped, into `folder`, which is made; returns the files. A `dropped.jsonl` that
    was there before does not stay. Of format `signals` it is `signals.jsonl` alone, of all rounds up to that one.
    Raises InputError where the run has no data, or has decided nothing, yet, DiskFull."""
    target = ExportFormat(target)
    record = history.run
    if record.source is None:
        raise InputError(f"Run {history.run_id} has read no data yet; there is nothing to export.")
    source = _source(record.source)
    number = history.datasets()[-1].round if round_number is None else round_number
    if number not in [dataset.round for dataset in history.datasets()]:
        raise InputError(f"Run {history.run_id} has no data set of round {number} yet.")

    def rows() -> Iterator[FinalRow]:
        return history.final_rows(number)

    if target is ExportFormat.SIGNALS:
        found = _signals(history, number)
        if (first := next(found, None)) is None:
            raise InputError(f"Run {history.run_id} has decided nothing yet; there are no signals to export.")
        return [_lines(folder / "signals.jsonl", chain([first], found))]
    folder.mkdir(parents=True, exist_ok=True)
    if target is ExportFormat.SOURCE:
        files = [_write_source(source, rows, folder)]
    elif target is ExportFormat.LLAMAFACTORY:
        files = _write_llamafactory(source, rows, folder)
    elif target is ExportFormat.PARQUET:
        files = [_write_parquet(source, rows(), folder)]
    elif target is ExportFormat.ALPACA:
        files = [_write_list(folder / "data.json", (_alpaca(source, row) for row in rows()))]
    else:
        make = _trl if target is ExportFormat.TRL else _messages
        files = [_lines(folder / "data.jsonl", (make(source, row) for row in rows()))]
    files.append(_lines(folder / "provenance.jsonl", provenance(history, number)))
    gone = list(dropped(history, number))
    if gone:
        return [*files, _lines(folder / "dropped.jsonl", gone)]
    (folder / "dropped.jsonl").unlink(missing_ok=True)  # an earlier export's
    return files


def _signals(history: RunHistory, number: int) -> Iterator[Record]:
    """What was measured and decided of each row, round by round in the order of its rows."""
    for dataset in history.datasets():
        if dataset.round <= number:
            for one in history.decisions(dataset.round):
                yield {
                    "row_id": one.row_id,
                    "round": dataset.round,
                    "sample_hash": one.sample_hash,
                    "actions": list(one.actions),
                    "signals": dict(one.signals),
                    "reasons": list(one.reasons),
                }


def _source(description: Mapping[str, Any]) -> _Source:
    return _Source(
        Layout(description["layout"]),
        Container(description["container"]),
        Columns(**description["columns"]),
        IdKind(description["ids"]),
        tuple(description["column_names"]),
        decode_schema(description["arrow_schema"]) if description["arrow_schema"] else None,
    )


# ---- records


def source_record(source: _Source, row: FinalRow) -> Record:
    """A row in the layout that it came in."""
    if row.row.origin == "source":
        return row.record
    is_new = row.row.row_id != row.row.source_row_id
    record = rewritten_record(row.messages, source.layout, source.columns, row.record, keep_unknown=not is_new)
    for name, value in record.items():
        if isinstance(value, list) and isinstance(row.record.get(name), str):
            record[name] = as_json(value)  # a conversation that came as text, among others that are so
    if not is_new or source.ids is IdKind.GENERATED:
        return record
    record[source.columns.id] = int(row.row.row_id) if source.ids is IdKind.NUMBER else row.row.row_id
    return {name: record[name] for name in dict.fromkeys([*row.record, *record]) if name in record}


def _extras(source: _Source, row: FinalRow, taken: Sequence[str]) -> Record:
    """The row's id and the columns that Burnish does not know; those whose name the target needs are renamed."""
    extras: Record = {"id": row.row.row_id}
    if row.row.row_id == row.row.source_row_id:
        names = _unknown_columns(source, taken)
        extras |= {names[name]: value for name, value in row.record.items() if name in names}
    return extras


def _unknown_columns(source: _Source, taken: Sequence[str]) -> dict[str, str]:
    """The columns that Burnish does not know, and what each is called where the target has columns of its own."""
    known = known_columns(source.layout, source.columns)
    unknown = [
        name
        for name in source.column_names
        if name not in known and not (name == source.columns.id and source.ids is not IdKind.GENERATED)
    ]
    used = {"id", *taken}
    names = {name: name for name in unknown if name not in used}
    for name in unknown:
        if name in used:
            free = f"source_{name}"
            while free in used or free in names.values():
                free = f"source_{free}"
            names[name] = free
    return names


def _alpaca(source: _Source, row: FinalRow) -> Record:
    names = Columns()
    record = alpaca_record(row.messages, names)
    columns = source.columns
    if source.layout is Layout.ALPACA and row.messages[:-1] == to_messages(row.record, source.layout, columns)[:-1]:
        record[names.instruction] = row.record.get(columns.instruction) or ""
        record[names.input] = row.record.get(columns.input) or ""
    kept = {name: value for name, value in record.items() if value or name in ("instruction", "input", "output")}
    return kept | _extras(source, row, tuple(record))


def _messages(source: _Source, row: FinalRow, *taken: str) -> Record:
    return {"messages": message_list(row.messages)} | _extras(source, row, ("messages", *taken))


def _trl(source: _Source, row: FinalRow) -> Record:
    """TRL's conversational prompt and completion: the loss is taken on the last response."""
    turns = message_list(row.messages)
    return {"prompt": turns[:-1], "completion": turns[-1:]} | _extras(source, row, ("prompt", "completion"))


# ---- files


def _write_source(source: _Source, rows: Callable[[], Iterable[FinalRow]], folder: Path) -> Path:
    records = (source_record(source, row) for row in rows())
    if source.container is Container.JSON:
        return _write_list(folder / "data.json", records)
    if source.container is Container.JSONL:
        return _lines(folder / "data.jsonl", records)
    if source.container is Container.CSV:
        return _write_csv(folder / "data.csv", source.column_names, records)
    if source.schema is None:
        raise InputError("The source was Parquet or Arrow, but its schema is not in the ledger.")
    return _write_batches(folder / "data.parquet", _with_room(source.schema, source, rows()), records)


def _with_room(schema: pa.Schema, source: _Source, rows: Iterable[FinalRow]) -> pa.Schema:
    """The source's schema with room for what rewrites say, and for ids of new rows: those are no UUIDs, nor dates."""
    names = known_columns(source.layout, source.columns)
    if any(row.row.row_id != row.row.source_row_id for row in rows):
        if source.ids is IdKind.TEXT:
            names |= {source.columns.id}
        elif source.ids is IdKind.NUMBER:  # they go on from the largest one
            schema = wide_ids(schema, source.columns.id)
    return roomy_schema(schema, names)


def _write_llamafactory(source: _Source, rows: Any, folder: Path) -> list[Path]:
    several_turns = any(len([m for m in row.messages if m.role is Role.USER]) > 1 for row in rows())
    if several_turns:
        described: dict[str, Any] = {
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": {
                "role_tag": "role",
                "content_tag": "content",
                "user_tag": Role.USER.value,
                "assistant_tag": Role.ASSISTANT.value,
                "system_tag": Role.SYSTEM.value,
            },
        }
        data = _write_list(folder / "data.json", (_messages(source, row) for row in rows()))
    else:
        with_system = any(row.messages[0].role is Role.SYSTEM for row in rows())
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        described = {"formatting": "alpaca", "columns": columns | ({"system": "system"} if with_system else {})}
        data = _write_list(folder / "data.json", (_alpaca(source, row) for row in rows()))
    info = folder / "dataset_info.json"
    write_json(info, {"burnish": {"file_name": data.name, **described}})
    return [data, info]


def _write_list(path: Path, records: Iterable[Record]) -> Path:
    with writing_whole(path) as stream:
        stream.write(b"[")
        separator = b"\n"
        for record in records:
            stream.write(separator + _json(record))
            separator = b",\n"
        stream.write(b"\n]\n")
    return path


def _lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    write_lines(path, records)
    return path


def _write_csv(path: Path, names: Sequence[str], records: Iterable[Record]) -> Path:
    with writing_whole(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
        writer = csv.DictWriter(text, names, restval="")
        writer.writeheader()
        for record in records:
            writer.writerow({name: _cell(value) for name, value in record.items()})
        text.detach()
    return path


def _write_batches(path: Path, schema: pa.Schema, records: Iterable[Record]) -> Path:
    schema = writable_schema(schema)
    with writing_whole(path) as stream, pq.ParquetWriter(stream, schema) as writer:
        batch: list[Record] = []
        for record in records:
            batch.append(record)
            if len(batch) == _BATCH:
                writer.write_batch(arrow_batch(batch, schema))
                batch = []
        if batch:
            writer.write_batch(arrow_batch(batch, schema))
    return path


def _write_parquet(source: _Source, rows: Iterable[FinalRow], folder: Path) -> Path:
    """`messages`, `id`, `origin` and the columns that Burnish does not know, in their own types where they had some."""
    records = [_messages(source, row, "origin") | {"origin": row.row.origin} for row in rows]
    renamed = _unknown_columns(source, ("messages", "origin"))
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    fields = [pa.field("messages", pa.list_(turn)), pa.field("id", pa.string()), pa.field("origin", pa.string())]
    own = {field.name: field for field in writable_schema(source.schema)} if source.schema is not None else {}
    own = {renamed[name]: field for name, field in own.items() if name in renamed}
    names = dict.fromkeys(name for record in records for name in record)
    for name in names:
        if name not in ("messages", "id", "origin"):
            values = [record.get(name) for record in records]
            fields.append(own[name].with_name(name) if name in own else pa.field(name, _inferred(values)))
    return _write_batches(folder / "data.parquet", pa.schema(fields), records)


def _inferred(values: Sequence[Any]) -> pa.DataType:
    """The Arrow type of JSON values; text, holding JSON, where they have none in common."""
    try:
        kind = pa.array(values).type  # infer_type says int64 of 1 and "a"
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return pa.string()
    return pa.string() if pa.types.is_null(kind) or _has_empty_struct(kind) else kind


def _has_empty_struct(kind: pa.DataType) -> bool:
    """Whether a type is, or holds, a struct without fields, which Parquet cannot write."""
    if pa.types.is_struct(kind):
        inner = [kind.field(place).type for place in range(kind.num_fields)]
        return not inner or any(map(_has_empty_struct, inner))
    return pa.types.is_list(kind) and _has_empty_struct(kind.value_type)


def _json(record: Mapping[str, Any]) -> bytes:
    return as_json(record).encode("utf-8")


def _cell(value: Any) -> Any:
    return as_json(value) if isinstance(value, list | dict) else value
