"""What is known to be wrong with a data set. Read for the report, and once a recipe has ended for the model trained on
right rows only; no recipe sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from burnish._types import Message
from burnish.coordinator.errors import DataError
from burnish.coordinator.formats import DataReader
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.clear import normal
from burnish.coordinator.recipes.base import RecipeSettings

FLAWED = "wrong"  # the flaw of a row of which only the right response is known


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one row: its flaw, empty for none, and the right response, None where it is not given."""

    flaw: str = ""
    response: str | None = None


def read_truth(history: RunHistory, told: str) -> dict[str, Known]:
    """What is known of each row of the source. `told` is a file of JSON lines with `id` and `flaw`, `response`, or
    both, where rows that are not in it have no flaw; or the name of a column that holds the right response. Raises
    DataError."""
    rows = {row.row_id: messages for row, messages in history.conversations(1)}
    path = Path(told)
    if path.is_file():
        known = _from_file(path, rows)
        return {row_id: known.get(row_id, Known()) for row_id in rows}
    found: dict[str, Known] = {}
    for row_id, record in history.source_records():
        if told not in record:
            raise _nowhere(told, f"row {row_id}", record)
        right = record[told]
        found[row_id] = _against(rows[row_id], right) if isinstance(right, str) else Known()
    return found


def checked(told: str, settings: RecipeSettings) -> str:
    """`told`, with a file by its absolute path; checked before a run begins, since a report is only written at its end.
    Raises DataError where it cannot be read, or is no column of the data."""
    path = Path(told)
    if path.is_file():
        _from_file(path, {})
        return str(path.absolute())
    first = next(iter(DataReader(settings.data, settings.columns, settings.skip_bad_rows).rows()), None)
    if first is not None and told not in first.record:
        raise _nowhere(told, "the data", first.record)
    return told


def _nowhere(told: str, where: str, record: Mapping[str, object]) -> DataError:
    return DataError(
        f"{told}: there is no such file, and {where} has no such column; expected JSON lines with `id` and `flaw`, or"
        f" one of the columns {', '.join(record)}."
    )


def _against(messages: tuple[Message, ...], right: str) -> Known:
    same = normal(messages[-1].content) == normal(right)
    return Known("" if same else FLAWED, right)


def _from_file(path: Path, rows: Mapping[str, tuple[Message, ...]]) -> dict[str, Known]:
    known: dict[str, Known] = {}
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):  # noqa: B007 - named in the error
                record = json.loads(line)
                row_id, flaw, right = str(record["id"]), record.get("flaw"), record.get("response")
                if flaw is None and row_id in rows:
                    known[row_id] = _against(rows[row_id], str(record["response"]))
                else:
                    known[row_id] = Known(str(flaw), None if right is None else str(right))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); expected JSON lines with `id` and `flaw`."
        ) from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path}, line {number}: expected a JSON object with `id` and `flaw`, `response`, or both."
        ) from None
    return known
