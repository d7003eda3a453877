"""What a run directory holds that matters, to be compared byte for byte: the ledger's rows but for times, and files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from burnish.coordinator.ledger import Ledger

# Columns that say when, how long, or in how many beginnings; and which training run it was that made a model: one that
# refines itself is named by when its ledger began.
_OF_THE_MOMENT = {
    "run": {"created_at", "finished_at"},
    "step": {"reused", "seconds", "started_at", "finished_at"},
    "model": {"training_run"},
}
_NOT_COMPARED = {"training_event"}  # one for each beginning of a training, with its speed
_CHANGING_FILES = {"ledger.duckdb", "ledger.duckdb.wal", "ledger.duckdb.lock", "status.json", "config.json"}


def content_of(out: Path) -> dict[str, Any]:
    """All that has to be the same, by table and by file."""
    return _rows(out) | _files(out)


def steps_done(out: Path) -> set[tuple[int, str]]:
    """The steps that a run has behind it, as (round, name)."""
    if not (out / "ledger.duckdb").exists():
        return set()
    with Ledger.open(out / "ledger.duckdb", read_only=True) as ledger:
        return set(map(tuple, ledger.select("SELECT round, name FROM step WHERE state = 'done'")))


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """In words, where two contents differ."""
    said = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = expected.get(name, "nothing"), found.get(name, "nothing")
        if before != after:
            if isinstance(before, list) and isinstance(after, list):
                before, after = ([row for row in one if row not in other][:3] for one, other in
                                 ((before, after), (after, before)))  # fmt: skip
            said.append(f"{name}: {str(before)[:1200]} undisturbed, {str(after)[:1200]} here")
    return said


def _rows(out: Path) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    with Ledger.open(out / "ledger.duckdb", read_only=True) as ledger:
        columns = ledger.select(
            "SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name)"
            " WHERE estimated_size > 0 ORDER BY table_name, column_index"
        )
        names: dict[str, list[str]] = {}
        for table, column in columns:
            if table not in _NOT_COMPARED and column not in _OF_THE_MOMENT.get(table, ()):
                names.setdefault(table, []).append(column)
        for table, kept in names.items():
            rows = ledger.select(f"SELECT {', '.join(kept)} FROM {table}")
            lines = [{name: _plain(name, value) for name, value in zip(kept, row, strict=True)} for row in rows]
            tables[table] = sorted(json.dumps(line, sort_keys=True, default=str) for line in lines)
    return tables


def _plain(name: str, value: Any) -> Any:
    """A value without what it says of time, and of which training run a pause's model is."""
    if name == "detail" and isinstance(value, str):
        told = json.loads(re.sub(r"run-[0-9a-f]{16}", "run", value))
        return {key: one for key, one in told.items() if not key.endswith("seconds")}
    return value


def _files(out: Path) -> dict[str, str]:
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in _CHANGING_FILES)
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "burnish.json"  # a model's card says how long it was trained
    }
