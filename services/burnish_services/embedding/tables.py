"""Tables on LanceDB: the only place that imports lancedb.

Every change is one atomic commit of one table, and durable when its method returns: a process killed at any moment
leaves the state before the change or after it. What it may leave besides, files that no version names, goes at the next
start or compaction. What a table means stands in its schema's metadata, so that it changes together with the rows.

Blocking, and not safe for threads: its owner calls it from one thread, off the event loop (`worker.py`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lancedb
import pyarrow as pa
from lancedb.expr import col

from burnish_services.embedding.lock import DirectoryLock
from burnish_services.runtime.errors import PreconditionFailed

_CACHE_BYTES = 64 * 2**20  # of LanceDB, for what it knows of its files; by default it takes gigabytes
_LARGE = 256 * 2**20  # bytes of a table whose compaction is worth putting off


class Tables:
    """All tables in one directory, with this process as their only writer. Names: letters, digits, `-`, `_`, `.`"""

    def __init__(self, directory: Path, *, compact_after: int = 64) -> None:
        """Opens the directory, made if missing, and clears what a killed process left. A table in `compact_after`
        fragments is compacted. Raises DirectoryLocked where another process has it open."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(directory)
        self._directory = directory
        self._compact_after = compact_after
        self._clear_leftovers()
        caches = lancedb.Session(index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES)
        self._database = lancedb.connect(str(directory), session=caches)

    def close(self) -> None:
        """Lets the directory go; safe to call twice."""
        self._lock.release()

    # --- reading -----------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All tables, in order of name."""
        return sorted(path.stem for path in self._directory.glob("*.lance") if _is_table(path))

    def exists(self, name: str) -> bool:
        """Whether there is a table of that name."""
        return _is_table(self._path(name))

    def schema(self, name: str) -> pa.Schema:
        """The table's columns and metadata, as they are now."""
        return self._open(name).schema

    def count_rows(self, name: str) -> int:
        """Rows in the table."""
        return int(self._open(name).count_rows())

    def scan(self, name: str, columns: list[str], ids: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """These columns of all rows, in no order, or of those whose column `id` is one of `ids`."""
        query = self._open(name).search().select(columns)
        if ids is not None:
            query = query.where(col("id").isin(ids))
        return iter(query.to_batches())

    # --- changing ----------------------------------------------------------------------------------------------

    def create(self, name: str, schema: pa.Schema) -> None:
        """Makes an empty table, where there is none."""
        with self._durably(name):
            self._database.create_table(name, schema=schema)

    def overwrite(self, name: str, rows: pa.Table) -> None:
        """Replaces rows, columns and metadata, all at once."""
        with self._durably(name):
            self._database.create_table(name, data=rows, mode="overwrite")

    def append(self, name: str, rows: pa.Table) -> None:
        """Adds rows."""
        with self._durably(name):
            self._open(name).add(rows)
        self._compact_if_due(name)

    def merge(self, name: str, rows: pa.Table, *, num_changed: int) -> None:
        """Replaces the rows with the ids of `rows`, which must be `num_changed`, and adds the others."""
        with self._durably(name):
            merge = self._open(name).merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            done = merge.execute(rows)
            if (done.num_updated_rows, done.num_inserted_rows) != (num_changed, len(rows) - num_changed):
                raise RuntimeError(f"asked to replace {num_changed} of {len(rows)} rows, LanceDB did {done}")
        self._compact_if_due(name)

    def delete(self, name: str) -> None:
        """Removes the table; nothing happens where there is none."""
        path = self._path(name)
        if path.exists():
            # Renamed first: a table of which only a part is deleted would look like one that is there.
            doomed = self._directory / f".deleted-{time.time_ns()}"
            path.rename(doomed)
            _sync(self._directory)
            shutil.rmtree(doomed)

    # --- files -------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.lance"

    def _open(self, name: str) -> lancedb.table.Table:
        # Anew each time, which takes well under a millisecond, so that no handle is ever stale.
        return self._database.open_table(name)

    def _compact_if_due(self, name: str) -> None:
        table = self._open(name)
        stats = table.stats()
        num_fragments = stats["fragment_stats"]["num_fragments"]
        # A compaction writes everything again, so that of a large table is put off for a while.
        patience = 1 if stats["total_bytes"] < _LARGE else 4
        if num_fragments < patience * self._compact_after:
            return
        with self._durably(name):
            table.optimize()
        # Only now may the old files go. As the only reader and writer we know that nobody uses them.
        table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)

    @contextmanager
    def _durably(self, name: str) -> Iterator[None]:
        """Has the system write out what is written inside; Lance leaves that to chance."""
        known = self._files(name)
        yield
        self._make_durable(name, known)

    def _files(self, name: str) -> set[tuple[str, str]]:
        """Directory and name of the table's files, which are written once and never changed (but for a hint that may
        be lost)."""
        return {(directory, file) for directory, _, files in os.walk(self._path(name)) for file in files}

    def _make_durable(self, name: str, known: set[tuple[str, str]]) -> None:
        new = self._files(name) - known
        directories = {Path(directory) for directory, _ in new} | {self._path(name), self._directory}
        for path in [*(Path(directory, file) for directory, file in new), *directories]:
            _sync(path)

    def _clear_leftovers(self) -> None:
        for path in self._directory.glob(".deleted-*"):
            shutil.rmtree(path)
        for path in self._directory.glob("*.lance"):
            if not _is_table(path):
                shutil.rmtree(path)


def check_format(name: str, found: object, expected: int) -> None:
    """Raises PreconditionFailed where the format that a table's metadata names is not the one we write."""
    if found != expected:
        raise PreconditionFailed(
            "UNKNOWN_FORMAT",
            f"table {name!r} is in format {'unknown' if found is None else found}, expected {expected}: another "
            "version of Burnish or another program wrote it; use that, or delete the collection",
        )


def _is_table(path: Path) -> bool:
    """False for what is left where the first commit was never made."""
    return any(path.glob("_versions/*.manifest"))


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
