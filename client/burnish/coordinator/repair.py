"""Saving what can be read of a damaged ledger into a new one.

What is saved is what is keyed by content, and which runs there are. The runs are then gone through from their first
step, by the same commands, and find what was saved: only what was lost is measured anew, and the training service
knows the models that it has trained.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from burnish.coordinator.atomic import FULL, disk_full, sync_folder, writing_whole
from burnish.coordinator.errors import LedgerDamaged
from burnish.coordinator.ledger import Ledger, connected, locked

# Whatever a service said about a text, and the texts. All else follows from these, the data and the settings.
KEYED_BY_CONTENT = (
    "sample", "score", "rating", "confidence", "embedding", "neighborhood", "rewrite", "response", "preference",
)  # fmt: skip
_SMALLEST_RANGE = 2048  # rows that are given up together; DuckDB reads no fewer
_WAL_POSITION = re.compile(r"entry at byte position (\d+)")


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of one table: rows in the new ledger, and rows that could not be read."""

    table: str
    kept: int
    lost: int


@dataclass(frozen=True, slots=True)
class Repair:
    """The tables, and where the damaged file is now; None where nothing was damaged, and nothing was done."""

    tables: tuple[Saved, ...]
    moved_to: Path | None


def repair(path: Path) -> Repair:
    """Replaces a damaged ledger by a new one with what can be read of it, and keeps the damaged one beside it. A kill
    leaves either in its place. Raises LedgerBusy, LedgerError, DiskFull; LedgerDamaged where nothing can be read."""
    with locked(path):
        if not path.exists():
            raise LedgerDamaged(f"{path}: there is no ledger to repair; expected the folder of a run.")
        _undo_exchange(path)
        if _is_whole(path):
            return Repair((), None)
        work = path.with_name(f".{path.name}.repair")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            with Ledger.open(new := work / "new.duckdb") as fresh:
                damaged = _readable_copy(path, work)
                with _attached(fresh, damaged):
                    tables = (*(_save(fresh, table) for table in KEYED_BY_CONTENT), _save_runs(fresh))
                _drop_what_lost_its_text(fresh)
                fresh.execute("CHECKPOINT")
            if _wal(new).exists():  # what closing could not put into the file would be lost
                raise disk_full(new, OSError("the ledger could not be written whole"))
            moved_to = _exchange(path, new)
        except OSError as error:
            if error.errno in FULL:
                raise disk_full(work, error) from error
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return Repair(tables, moved_to)


def _is_whole(path: Path) -> bool:
    try:
        with connected(path) as ledger:
            for (table,) in ledger.select("SELECT table_name FROM duckdb_tables()"):
                # Every column of every row, or a block that only some column is in would not be looked at.
                ledger.execute(f"SELECT count(DISTINCT hash(one)) FROM {_quoted(table)} AS one")
    except LedgerDamaged:
        return False
    return True


def _quoted(name: str) -> str:
    """A table's name as SQL: a file that others made may call it anything."""
    return '"' + name.replace('"', '""') + '"'


def _readable_copy(path: Path, work: Path) -> Path:
    """A copy that opens: with as much of the write-ahead log as is whole. Raises LedgerDamaged where none does."""
    copy = work / "damaged.duckdb"
    wal, wal_copy = _wal(path), _wal(copy)
    shutil.copyfile(path, copy)
    if wal.exists():
        shutil.copyfile(wal, wal_copy)
    for _ in range(2):
        try:
            with connected(copy):
                return copy
        except LedgerDamaged as error:
            if not wal_copy.exists():
                raise _hopeless(path, error) from error
            found = _WAL_POSITION.search(str(error))
            if found and 0 < int(found[1]) < wal_copy.stat().st_size:
                with wal_copy.open("r+b") as stream:
                    stream.truncate(int(found[1]))
            else:
                wal_copy.unlink()
    wal_copy.unlink(missing_ok=True)
    return copy


@contextmanager
def _attached(fresh: Ledger, damaged: Path) -> Iterator[None]:
    quoted = str(damaged).replace("'", "''")
    fresh.execute(f"ATTACH '{quoted}' AS damaged (READ_ONLY)")
    try:
        yield
    finally:
        with suppress(LedgerDamaged):
            fresh.execute("DETACH damaged")


def _save(fresh: Ledger, table: str) -> Saved:
    columns = _common_columns(fresh, table)
    if not columns:
        return Saved(table, 0, 0)
    try:
        ((total, last),) = fresh.select(f"SELECT count(*), max(rowid) FROM damaged.{table}")
    except LedgerDamaged:
        return Saved(table, 0, 1)
    if total:
        _save_rows(fresh, table, ", ".join(columns), 0, last)
    ((kept,),) = fresh.select(f"SELECT count(*) FROM {table}")
    return Saved(table, kept, total - kept)


def _save_rows(fresh: Ledger, table: str, columns: str, first: int, last: int) -> None:
    """Copies the rows of a range, or of what halves of it can be read."""
    try:
        with fresh.transaction():
            fresh.execute(
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM damaged.{table}"
                " WHERE rowid BETWEEN ? AND ? ON CONFLICT DO NOTHING",
                (first, last),
            )
    except LedgerDamaged:
        if last - first < _SMALLEST_RANGE:
            return
        middle = (first + last) // 2
        _save_rows(fresh, table, columns, first, middle)
        _save_rows(fresh, table, columns, middle + 1, last)


def _save_runs(fresh: Ledger) -> Saved:
    """Which runs there are, as though none had begun its first step."""
    try:
        with fresh.transaction():
            fresh.execute(
                "INSERT INTO run (run_id, recipe, config, burnish_version, created_at)"
                " SELECT run_id, recipe, config, burnish_version, now() FROM damaged.run"
            )
    except LedgerDamaged:
        return Saved("run", 0, 1)
    ((kept,),) = fresh.select("SELECT count(*) FROM run")
    return Saved("run", kept, 0)


def _common_columns(fresh: Ledger, table: str) -> list[str]:
    """Columns that the damaged ledger, which may be older, has as well."""
    query = "SELECT column_name FROM duckdb_columns() WHERE table_name = ? AND database_name {} 'damaged'"
    theirs = {name for (name,) in fresh.select(query.format("="), [table])}
    return [name for (name,) in fresh.select(query.format("<>"), [table]) if name in theirs]


def _drop_what_lost_its_text(fresh: Ledger) -> None:
    with fresh.transaction():
        fresh.execute(
            "DELETE FROM rewrite WHERE result_hash IS NOT NULL AND result_hash NOT IN (SELECT sample_hash FROM sample)"
        )


def _exchange(path: Path, new: Path) -> Path:
    """Puts the new ledger in the damaged one's place, in one move, and keeps that under another name."""
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    if _wal(path).exists():
        _copy(_wal(path), _wal(kept))
    try:
        kept.hardlink_to(path)
    except OSError:  # a file system without links
        _copy(path, kept)
    sync_folder(path.parent)
    _wal(path).unlink(missing_ok=True)
    new.replace(path)
    sync_folder(path.parent)
    return kept


def _copy(source: Path, target: Path) -> None:
    """Copies a file, all of it or nothing."""
    with writing_whole(target) as stream, source.open("rb") as given:
        shutil.copyfileobj(given, stream)


def _undo_exchange(path: Path) -> None:
    """Where a kill came in the midst of an exchange, `path` and what was kept of it are the same, which is to have its
    log again, unless somebody has written to it since."""
    for kept in path.parent.glob(f"{path.name}.damaged-*"):
        same = kept.suffix != ".wal" and (kept.samefile(path) or filecmp.cmp(kept, path, shallow=False))
        if not same or (_wal(kept).exists() and _wal(path).exists() and not filecmp.cmp(_wal(kept), _wal(path), False)):
            continue
        if _wal(kept).exists():
            _wal(kept).replace(_wal(path))
        kept.unlink()


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _hopeless(path: Path, error: LedgerDamaged) -> LedgerDamaged:
    return LedgerDamaged(
        f"{path}: nothing of it can be read ({error}). Put a copy back that is whole; or move it away and run the same"
        " command: everything is then measured anew, and models that were trained are taken up again."
    )
