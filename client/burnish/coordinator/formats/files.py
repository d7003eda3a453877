"""Finding data files and streaming the records in them, each with its place. Knows no layout of conversations.

JSON (a list, or one object a line), JSONL, CSV, Parquet, and the Arrow files of a Hugging Face data set saved to
disk. Values are JSON values; `arrow.py` says what becomes of those that JSON cannot hold.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from burnish.coordinator.errors import DataError
from burnish.coordinator.formats.arrow import json_values
from burnish.coordinator.formats.json_text import NotJson, parse_json, why_not_json
from burnish.coordinator.paths import is_hub_name, is_remote

_ROWS_PER_READ = 1024
_CHARS_PER_READ = 1 << 20


class Container(StrEnum):
    """How a file holds its records."""

    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"  # Hugging Face `save_to_disk`


SUFFIXES = {
    ".json": Container.JSON,
    ".jsonl": Container.JSONL,
    ".ndjson": Container.JSONL,
    ".csv": Container.CSV,
    ".parquet": Container.PARQUET,
    ".arrow": Container.ARROW,
}
_SUPPORTED = "a .json, .jsonl, .csv or .parquet file, a folder or glob of them, or a saved Hugging Face data set"
_FROM_HUB = (
    " Burnish asks no hub. If it is a data set's name on one, fetch it first, in Python:"
    ' datasets.load_dataset("{0}", split="train").save_to_disk("my-data"), and give my-data.'
)
_NOT_DATA = frozenset({"dataset_info.json", "state.json", "dataset_dict.json"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file and how to read it."""

    path: Path
    container: Container


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record and its place: `row` counts from 1, and is the line number in JSONL. `problem` says why there is no
    `value`."""

    row: int
    value: dict[str, Any]
    problem: str = ""


def find_files(source: str | Path | Sequence[str | Path]) -> list[SourceFile]:
    """The files that `source` names, in the order they are read: as given; inside a folder or glob, by name.
    Raises DataError where there are none or one is of no known kind."""
    given = [source] if isinstance(source, str | Path) else list(source)
    files = [file for item in given for file in _expand(item)]
    if not files:
        raise DataError(f"No data file was named; expected {_SUPPORTED}.")
    return files


def digest_files(files: Sequence[SourceFile]) -> str:
    """`sha256:` and the digest over the files' bytes in order; names and places do not count. Raises DataError for one
    that cannot be read."""
    whole = hashlib.sha256()
    for file in files:
        try:
            with file.path.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from error
    return f"sha256:{whole.hexdigest()}"


def read_records(file: SourceFile) -> Iterator[RawRecord]:
    """The records of one file, a piece of it in memory at a time. A record that is no object comes with its problem;
    a file that cannot be read on raises DataError saying where."""
    try:
        if file.container is Container.PARQUET:
            yield from _read_parquet(file.path)
        elif file.container is Container.ARROW:
            yield from _read_arrow(file.path)
        elif file.container is Container.CSV:
            yield from _read_csv(file.path)
        elif file.container is Container.JSONL or _first_character(file.path) != "[":
            yield from _read_lines(file.path)
        else:
            yield from _read_list(file.path)
    except UnicodeDecodeError:
        raise DataError(f"{file.path}: {_where_not_utf8(file.path)}; save the file as UTF-8.") from None
    except pa.ArrowException as error:
        raise DataError(f"{file.path}: cannot be read as {file.container.value}: {error}") from error
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from error


def arrow_schema(files: Sequence[SourceFile]) -> pa.Schema | None:
    """The common schema of the Parquet and Arrow files among `files`; None where there are none."""
    schemas = []
    for file in files:
        if file.container is Container.PARQUET:
            schemas.append(pq.read_schema(file.path))
        elif file.container is Container.ARROW:
            with _open_arrow(file.path) as reader:
                schemas.append(reader.schema)
    try:
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else None
    except pa.ArrowException as error:
        raise DataError(f"{files[0].path}: the files' columns do not go together: {error}") from error


def _expand(item: str | Path) -> list[SourceFile]:
    path = Path(item)
    if path.is_dir():
        return _expand_folder(path)
    if path.exists():
        return [_known(path)]
    if glob.has_magic(str(item)):
        found = sorted(Path(name) for name in glob.glob(str(item), recursive=True))  # noqa: PTH207 (the pattern may be absolute)
        if not found:
            raise DataError(f"{item}: no file matches this pattern; expected {_SUPPORTED}.")
        return [file for name in found for file in (_expand_folder(name) if name.is_dir() else [_known(name)])]
    elsewhere = " of this machine; runs alone read from object storage" if is_remote(str(item)) else ""
    is_of_hub = path.suffix.lower() not in SUFFIXES and is_hub_name(str(item))
    hub = _FROM_HUB.format(item) if is_of_hub else ""
    raise DataError(f"{item}: there is no such file or folder{elsewhere}; expected {_SUPPORTED}.{hub}")


def _expand_folder(folder: Path) -> list[SourceFile]:
    if (folder / "dataset_dict.json").is_file():
        splits = _listed(folder / "dataset_dict.json", "splits")
        if splits == ["train"]:
            return _expand_folder(folder / "train")
        raise DataError(
            f"{folder}: holds the splits {', '.join(map(str, splits))}; name the one to use, such as {folder}/train."
        )
    if (folder / "state.json").is_file():
        entries = _listed(folder / "state.json", "_data_files")
        names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
        if not names or not all(isinstance(name, str) and name and "\0" not in name for name in names):
            raise DataError(
                f'{folder / "state.json"}: expected "_data_files", a list of objects with a "filename" each.'
            )
        return [SourceFile(folder / str(name), Container.ARROW) for name in names]
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix.lower() in SUFFIXES
        and path.name not in _NOT_DATA
        # Editors and notebooks keep copies in places that begin with a dot.
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise DataError(f"{folder}: holds no data file; expected {_SUPPORTED}.")
    return [_known(path) for path in found]


def _listed(path: Path, key: str) -> list[Any]:
    """A list that a saved data set's own JSON file holds under `key`."""
    try:
        found = parse_json(path.read_bytes()).get(key, [])
    except (NotJson, AttributeError) as error:
        raise DataError(f'{path}: is no JSON object ({error}); expected one with a list "{key}".') from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(found, list):
        raise DataError(f'{path}: "{key}" is {json.dumps(found)[:40]}; expected a list.')
    return found


def _known(path: Path) -> SourceFile:
    container = SUFFIXES.get(path.suffix.lower())
    if container is None:
        raise DataError(f"{path}: the kind of file is not known by its ending; expected {_SUPPORTED}.")
    return SourceFile(path, container)


def _first_character(path: Path) -> str:
    with path.open(encoding="utf-8-sig") as stream:
        while chunk := stream.read(4096):
            if stripped := chunk.lstrip():
                return stripped[0]
    return ""


def _read_lines(path: Path) -> Iterator[RawRecord]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            try:
                yield _record(number, parse_json(line))
            except NotJson as error:
                yield RawRecord(number, {}, f"is not JSON ({error}); expected an object")


def _read_list(path: Path) -> Iterator[RawRecord]:
    """Elements of a JSON list, decoded one after the other from a buffer that is refilled as needed."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as stream:
        buffer, at, row, ended = stream.read(_CHARS_PER_READ).lstrip()[1:], 0, 0, False
        while True:
            while at < len(buffer) and buffer[at] in " \t\r\n,":
                at += 1
            if at < len(buffer) and buffer[at] == "]":
                _check_ended(path, buffer[at + 1 :], stream, row)
                return
            try:
                value, at = decoder.raw_decode(buffer, at)
            except json.JSONDecodeError as error:
                if ended:
                    raise DataError(
                        f"{path}: the JSON breaks in row {row + 1}: {error.msg}; expected a list of objects."
                    ) from None
                # Reading as much again as is still undecoded keeps the retries linear for huge rows.
                more = stream.read(max(_CHARS_PER_READ, len(buffer) - at))
                buffer, at, ended = buffer[at:] + more, 0, not more
                continue
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}: the JSON breaks in row {row + 1}: {why_not_json(error)}; expected a list of objects."
                ) from None
            row += 1
            yield _record(row, value)


def _check_ended(path: Path, buffer: str, stream: TextIO, rows: int) -> None:
    """Raises DataError where something follows the list, such as another one, which would be lost."""
    while not buffer.strip():
        buffer = stream.read(_CHARS_PER_READ)
        if not buffer:
            return
    raise DataError(
        f"{path}: after its list, of {rows} rows, there is more: {buffer.strip()[:40]!r}; expected one list of objects."
        " Give several files instead (--data may be repeated), or one object on each line (.jsonl)."
    )


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raises DataError where two columns are called the same, of which one would be lost."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is there more than once; expected columns by names of their own.")


def _read_csv(path: Path) -> Iterator[RawRecord]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, restkey=None, strict=True)
        try:
            # Spreadsheets leave columns without a name.
            reader.fieldnames = [name or f"unnamed {at}" for at, name in enumerate(reader.fieldnames or (), start=1)]
            _check_names(path, reader.fieldnames)
            for number, value in enumerate(reader, start=1):
                cells = None in value or None in value.values()
                yield RawRecord(number, value, "has another number of cells than the header" if cells else "")
        except csv.Error as error:
            raise DataError(f"{path}: the CSV breaks at line {reader.line_num}: {error}.") from None


def _read_parquet(path: Path) -> Iterator[RawRecord]:
    with pq.ParquetFile(path) as file:
        _check_names(path, file.schema_arrow.names)
        yield from _from_batches(file.iter_batches(batch_size=_ROWS_PER_READ))


def _read_arrow(path: Path) -> Iterator[RawRecord]:
    with _open_arrow(path) as reader:
        _check_names(path, reader.schema.names)
        batches = reader if isinstance(reader, pa.RecordBatchStreamReader) else _file_batches(reader)
        yield from _from_batches(batches)


def _open_arrow(path: Path) -> Any:
    """A reader of either Arrow form; Hugging Face writes streams."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(source)
    except pa.ArrowInvalid:
        return pa.ipc.open_file(source)


def _file_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def _from_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[RawRecord]:
    row = 0
    for batch in batches:
        batch.validate(full=True)  # or reading what a damaged file says crashes the process
        columns = [json_values(batch.column(index)) for index in range(batch.num_columns)]
        for values in zip(*columns, strict=True):
            row += 1
            yield RawRecord(row, dict(zip(batch.schema.names, values, strict=True)))


def _record(row: int, value: object) -> RawRecord:
    if isinstance(value, dict):
        return RawRecord(row, value)
    return RawRecord(row, {}, f"is {json.dumps(value)[:40]}; expected an object")


def _where_not_utf8(path: Path) -> str:
    """Line and byte of the first sequence that is not UTF-8."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number}, byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8"
    return "the end of the file is not UTF-8"
