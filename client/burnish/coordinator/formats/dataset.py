"""One data set: its rows as samples, with ids, warnings and problems. Streams; only ids are held for all rows.

Every file must hold the same layout. A row that is no sample is a problem: up to `MAX_PROBLEMS` are collected, then
reading stops with a DataError; or, with `skip_bad_rows`, they are left out, counted and named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from burnish._types import Message, Sample
from burnish.coordinator.errors import DataError
from burnish.coordinator.formats.files import Container, RawRecord, SourceFile, find_files, read_records
from burnish.coordinator.formats.shapes import Columns, Layout, Record, RowProblem, detect, to_messages

MAX_PROBLEMS = 20
_SHOWN = 80  # characters of a column's name that a message repeats
# As others call them; and what tells turns of a conversation.
_PROMPTS, _RESPONSES = ("prompt", "question", "query", "input"), ("completion", "response", "answer")
_TURNS = {"messages": "role", "conversations": "from"}
_MAX_ID_BYTES = 200  # the services allow 256; ids of new rows are longer than their parent's


class IdKind(StrEnum):
    """Where row ids come from."""

    TEXT = "text"  # the source's own, text
    NUMBER = "number"  # the source's own, whole numbers
    GENERATED = "generated"  # row-000001, row-000002, ...


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is true of a whole data set."""

    layout: Layout
    container: Container
    columns: Columns
    ids: IdKind
    column_names: tuple[str, ...]  # all columns of all rows, in order of appearance


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row that is a sample. `position` counts from 0 over all files, bad rows left out."""

    position: int
    messages: tuple[Message, ...]
    record: Record


@dataclass(slots=True)
class DataReader:
    """Reads one data set once. Iterate over `rows()` to the end, then ask for `info`, `ids()`, `warnings` and
    `skipped`."""

    source: str | Path | Sequence[str | Path]
    columns: Columns = field(default_factory=Columns)
    skip_bad_rows: bool = False
    files: list[SourceFile] = field(init=False)
    skipped: list[str] = field(init=False, default_factory=list)
    warnings: list[str] = field(init=False, default_factory=list)
    _layout: Layout | None = field(init=False, default=None)
    _layout_place: str = field(init=False, default="")
    _names: dict[str, None] = field(init=False, default_factory=dict)
    _ids: list[object] = field(init=False, default_factory=list)
    _kind: IdKind | None = field(init=False, default=None)
    _strange: Counter[str] = field(init=False, default_factory=Counter)  # of `skipped`, those of no layout
    _hint: str = field(init=False, default="")  # of the first of these

    def __post_init__(self) -> None:
        self.files = find_files(self.source)

    def rows(self) -> Iterator[SourceRow]:
        """The samples in order. Raises DataError: bad rows, mixed layouts, nothing in it, not readable."""
        position = 0
        for file in self.files:
            for raw in read_records(file):
                try:
                    messages = self._read(file, raw)
                except RowProblem as problem:
                    self._bad(f"{_place(file, raw)}: {problem}")
                    continue
                self._names.update(dict.fromkeys(raw.value))
                self._ids.append(raw.value.get(self.columns.id))
                yield SourceRow(position, messages, raw.value)
                position += 1
        if self.skipped and not self.skip_bad_rows:
            raise self._refusal()
        if not position:
            names = ", ".join(str(file.path) for file in self.files)
            reason = f"all {len(self.skipped)} rows are bad, the first: {self.skipped[0]}" if self.skipped else "empty"
            if self._is_all_strange:
                raise self._refusal()
            raise DataError(f"{names}: there is nothing to work on: {reason}.", self.skipped)
        if self.skipped:
            self.warnings.append(f"{len(self.skipped)} bad rows were left out; the first: {self.skipped[0]}")

    def ids(self) -> list[str]:
        """One unique id per row, in order. The source's own where all are there, unique, and all text or all whole
        numbers; otherwise generated, with a warning where there were some."""
        self._kind, complaint = _judge_ids(self._ids)
        if complaint:
            self.warnings.append(f'column "{self.columns.id}" {complaint}; rows are called row-000001, … instead')
        if self._kind is IdKind.GENERATED:
            return [f"row-{number:06d}" for number in range(1, len(self._ids) + 1)]
        return [str(value) for value in self._ids]

    @property
    def info(self) -> SourceInfo:
        """What the whole data set is; known after `rows()` and `ids()`."""
        if self._layout is None or self._kind is None:
            raise RuntimeError("info is known once rows() was read to its end and ids() was called")
        containers = {file.container for file in self.files}
        container = containers.pop() if len(containers) == 1 else Container.JSONL
        return SourceInfo(self._layout, container, self.columns, self._kind, tuple(self._names))

    def _read(self, file: SourceFile, raw: RawRecord) -> tuple[Message, ...]:
        if raw.problem:
            raise RowProblem(raw.problem)
        layout = detect(raw.value, self.columns)
        if layout is None:
            problem = _no_layout(raw.value, self.columns)
            self._hint = self._hint or _hint(raw.value, self.columns)
            self._strange[problem] += 1
            raise RowProblem(problem)
        if self._layout is None:
            self._layout, self._layout_place = layout, _place(file, raw)
        elif layout is not self._layout:
            raise DataError(
                f"The data set mixes formats: {self._layout_place} is {self._layout.value}, {_place(file, raw)} is"
                f" {layout.value}; expected one format in all files. Convert one of them, or run them apart."
            )
        return to_messages(raw.value, layout, self.columns)

    @property
    def _is_all_strange(self) -> bool:
        """Whether all that was read are rows of the same columns, which no layout has."""
        return not self._ids and len(self._strange) == 1 and self._strange.total() == len(self.skipped)

    def _bad(self, problem: str) -> None:
        self.skipped.append(problem)
        if not self.skip_bad_rows and len(self.skipped) >= MAX_PROBLEMS:
            raise self._refusal(more=True)

    def _refusal(self, more: bool = False) -> DataError:
        if self._is_all_strange:
            first = f"No row can be read, and all have the same columns. {self.skipped[0]}."
            return DataError(f"{first} {self._hint}", self.skipped)
        count = f"at least {len(self.skipped)}" if more else str(len(self.skipped))
        lines = "\n  ".join(self.skipped)
        noun = "row is" if count == "1" else "rows are"
        return DataError(
            f"{count} {noun} no training sample:\n  {lines}\nMend them, or leave bad rows out with --skip-bad-rows.",
            self.skipped,
        )


def glance(source: Sequence[str | Path], columns: Columns, *, skip_bad_rows: bool = False) -> None:
    """Looks whether there is a row that can be read, no further than to the first or, of bad ones, MAX_PROBLEMS. Raises
    DataError."""
    try:
        next(DataReader(source, columns).rows())
    except DataError as error:
        if not (skip_bad_rows and error.problems):
            raise


@dataclass(frozen=True, slots=True)
class LoadedData:
    """A whole data set in memory: samples named by row id, their records, and what was noticed."""

    info: SourceInfo
    samples: tuple[Sample, ...]
    records: tuple[Record, ...]
    warnings: tuple[str, ...]


def load(
    source: str | Path | Sequence[str | Path], *, columns: Columns | None = None, skip_bad_rows: bool = False
) -> LoadedData:
    """Reads a whole data set into memory. Raises DataError."""
    reader = DataReader(source, columns or Columns(), skip_bad_rows)
    rows = list(reader.rows())
    ids = reader.ids()
    samples = tuple(Sample(row_id, row.messages) for row_id, row in zip(ids, rows, strict=True))
    return LoadedData(reader.info, samples, tuple(row.record for row in rows), tuple(reader.warnings))


def _judge_ids(values: Sequence[object]) -> tuple[IdKind, str]:
    """Which ids to use, and what is wrong with the source's own where it has some."""
    missing = sum(value is None for value in values)
    if missing == len(values):
        return IdKind.GENERATED, ""
    if missing:
        return IdKind.GENERATED, f"is missing or null in {missing} of {len(values)} rows"
    repeated = next((value for value, count in Counter(map(str, values)).items() if count > 1), None)
    if repeated is not None:
        return IdKind.GENERATED, f"holds duplicates (the first: {repeated!r})"
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return IdKind.NUMBER, ""
    if all(isinstance(value, str) and 0 < _num_bytes(value) <= _MAX_ID_BYTES for value in values):
        return IdKind.TEXT, ""
    return IdKind.GENERATED, f"is not all text of 1 to {_MAX_ID_BYTES} bytes, nor all whole numbers"


def _num_bytes(text: str) -> int:
    """In UTF-8; 0 for halves of surrogate pairs, which JSON can write and nothing can encode."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return 0


def _place(file: SourceFile, raw: RawRecord) -> str:
    return f"{file.path}, row {raw.row}"


def _no_layout(record: Record, columns: Columns) -> str:
    found = ", ".join(f'"{name[:_SHOWN]}"' for name in list(record)[:8]) or "none"
    return (
        f'the columns are {found}; expected "{columns.instruction}" and "{columns.output}" (alpaca),'
        f' "{columns.conversations}" (sharegpt) or "{columns.messages}" (chat messages)'
    )


def _hint(record: Record, columns: Columns) -> str:
    """What a record whose columns are none of a layout's may be, and how to say so."""
    names = list(record)
    if len(names) == 1 and any(mark in names[0] for mark in (";", "\t")):
        return "Is it a file of columns that something else than a comma separates? Write it with commas."
    lists = {name: value[0] for name, value in record.items() if isinstance(value, list) and value}
    for name, turn in lists.items():
        kind = next((own for own, word in _TURNS.items() if isinstance(turn, dict) and word in turn), None)
        if kind is not None:
            return f"Where it only has another name: --column {kind}={name}."
    if len(names) == 1 and lists:
        return f'Are the rows what is below "{names[0]}"? Give that list itself, or one row a line.'
    missing = [
        f"--column {own}={next((name for name in others if name in names), what)}"
        for own, ours, others, what in (
            ("instruction", columns.instruction, _PROMPTS, "PROMPT"),
            ("output", columns.output, _RESPONSES, "RESPONSE"),
        )
        if ours not in names
    ]
    return f"Where they only have other names: {' '.join(missing)}."
