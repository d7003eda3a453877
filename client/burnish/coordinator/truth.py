"""What is known to be wrong with a data set. Read for the report, and once a recipe has ended for the model trained on
right rows only; no recipe sees it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from burnish._types import Message
from burnish.coordinator.errors import DataError
from burnish.coordinator.formats import DataReader
from burnish.coordinator.history import RunHistory
from burnish.coordinator.paths import is_remote
from burnish.coordinator.policy.sameness import normal
from burnish.coordinator.recipes.base import RecipeSettings

FLAWED = "wrong"  # the flaw of a row of which only the right response is known


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one row: its flaw, empty for none, and the right response, None where it is not given."""

    flaw: str = ""
    response: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a file says of one row: its flaw, None where only the right response is told."""

    flaw: str | None
    response: str | None = None


def read_truth(history: RunHistory, told: str) -> dict[str, Known]:
    """What is known of each row of the source. `told` is a file of JSON lines with `id` and `flaw`, `response`, or
    both, where rows that are not in it have no flaw; or the name of a column that holds the right response, where
    nothing is known of rows in which it is null or missing. Raises DataError."""
    rows = {row.row_id: messages for row, messages in history.conversations(1)}
    path = Path(told)
    if path.is_file():
        known = _from_file(path)
        _expect_some(path, known, rows)
        return {row_id: _judged(known.get(row_id, Told("")), rows[row_id]) for row_id in rows}
    responses = _from_column(told, history.source_records())
    return {row_id: _judged(Told(None, right), rows[row_id]) for row_id, right in responses.items()}


def checked(told: str, settings: RecipeSettings) -> str:
    """`told`, with a file by its absolute path; checked before a run begins, since a report is only written at its end.
    Raises DataError where it cannot be read, or is no column of the data."""
    path = Path(told)
    if path.is_file():
        known = _from_file(path)
        if not any(is_remote(one) for one in settings.data):
            reader = DataReader(settings.data, settings.columns, settings.skip_bad_rows)
            deque(reader.rows(), maxlen=0)
            _expect_some(path, known, reader.ids())
        return str(path.absolute())
    if any(is_remote(one) for one in settings.data):
        return told  # nothing of them is here yet
    rows = DataReader(settings.data, settings.columns, settings.skip_bad_rows).rows()
    _from_column(told, ((f"number {row.position + 1}", row.record) for row in rows))
    return told


def _from_column(told: str, records: Iterable[tuple[str, Mapping[str, object]]]) -> dict[str, str]:
    """The right response by row, of records by row; without those where it is null or missing. Raises DataError where
    no record has the column, or it holds something else than text or a number."""
    found: dict[str, str] = {}
    columns: dict[str, None] = {}  # in order of appearance
    for row_id, record in records:
        columns.update(dict.fromkeys(record))
        right = record.get(told)
        if right is None or right == "":  # CSV has no null
            continue
        if isinstance(right, bool) or not isinstance(right, str | int | float):
            raise DataError(
                f'Column "{told}" holds {_kind(right)} in row {row_id}; expected the right response, as text or a'
                " number, or null where it is not known. Mend that row, or give a file (--truth FILE)."
            )
        found[row_id] = str(right)
    if told not in columns:
        raise DataError(
            f"{told}: there is no such file, and the data has no such column; expected JSON lines with `id` and"
            f" `flaw`, or one of the columns {', '.join(columns)}."
        )
    return found


def _kind(value: object) -> str:
    return {bool: "a boolean", list: "a list", dict: "an object"}.get(type(value), "no text")


def _expect_some(path: Path, known: Mapping[str, Told], row_ids: Iterable[str]) -> None:
    """Raises DataError where a file is about other rows than these: then nothing would seem to be wrong."""
    names = list(row_ids)
    if known and known.keys().isdisjoint(names):
        raise DataError(
            f"{path}: none of its {len(known)} ids, such as {next(iter(known))!r}, is a row of the data; rows are"
            f" called {names[0]!r} and the like. Expected `id` as the data have it, or as rows are named where ids of"
            " their own are missing or repeated."
        )


def _judged(told: Told, messages: tuple[Message, ...]) -> Known:
    if told.flaw is not None:
        return Known(told.flaw, told.response)
    same = normal(messages[-1].content) == normal(told.response or "")
    return Known("" if same else FLAWED, told.response)


def _from_file(path: Path) -> dict[str, Told]:
    told: dict[str, Told] = {}
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - named in the error
                record = json.loads(line)
                flaw, right = record.get("flaw"), record.get("response")
                if flaw is None and right is None:
                    raise KeyError("flaw")
                told[str(record["id"])] = Told(*(None if one is None else str(one) for one in (flaw, right)))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected JSON lines with `id` and `flaw`."
        ) from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}, line {number}: expected a JSON object with `id` and `flaw`, `response`, or both."
        ) from None
    return told
