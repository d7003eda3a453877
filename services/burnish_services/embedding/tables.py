"""Tables on LanceDB: the only place that imports lancedb.

Every change is one atomic commit of one table, and durable when its method returns: a process killed at any moment
leaves the state before the change or after it. What it may leave besides, files that no version names, goes at the
next start or compaction; in object storage, at a compaction a week later (see `_clean`). What a table means stands in
its schema's metadata, so that it changes together with the rows.

**Housekeeping fails no call.** Compaction and cleaning come after a commit that is durable: where they fail, on a full
disk say, that is logged, and what was asked for is done.

**One writer.** A directory is locked. Object storage has no lock, so every time a table is opened it must be as this
process last saw or made it; if it is not, STORE_CHANGED is raised, and everything known of the store is forgotten, so
that the next call begins from what is stored. A window remains, from opening a table to the commit, the time of one
write: of two writers Lance lets both append and merge, one after the other, and lets an overwrite replace what came
in between. That is found out right after the commit, by its version, and raised too, but what is stored then may have
an id twice, which `store.py` and `calibrations.py` refuse to read. Whoever wants two servers gives each a prefix of its
own.

Blocking, and not safe for threads: its owner calls it from one thread, off the event loop (`worker.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import lancedb
import pyarrow as pa
from lancedb.expr import col

from burnish_services.embedding.storage import storage_at
from burnish_services.runtime.disks import is_disk_full
from burnish_services.runtime.errors import PreconditionFailed

log = logging.getLogger(__name__)
T = TypeVar("T")
PLACE = "_rowid"  # LanceDB's name for it
_UNKNOWN_FORMAT = "UNKNOWN_FORMAT"
_LARGE = 256 * 2**20  # bytes of a table whose compaction is worth putting off


@dataclass(frozen=True, slots=True)
class _Seen:
    """What this process last saw of a table, or made of it."""

    version: int
    num_rows: int
    schema: pa.Schema

    def is_same(self, other: _Seen) -> bool:
        """Whether nothing was committed in between. A table that was deleted and made again counts its versions anew,
        but has other metadata: the time of its creation is in it."""
        return (self.version, self.schema.metadata) == (other.version, other.schema.metadata)


class Tables:
    """All tables at one place, with this process as their only writer. Names: letters, digits, `-`, `_`, `.`"""

    def __init__(self, place: Path | str, *, compact_after: int = 64, cache_mib: int = 128) -> None:
        """Opens the place, a directory (made if missing) or a URI as `storage_at` takes it, and clears what a killed
        process left. A table in `compact_after` fragments is compacted; LanceDB's caches take `cache_mib`. Raises
        DirectoryLocked where another process has the directory open, and StoreUnavailable where the place cannot be
        used."""
        self._compact_after = compact_after
        self._seen: dict[str, _Seen] = {}
        self._not_before: dict[str, int] = {}  # fragments that a table is to have before a compaction is tried again
        self._forget: list[Callable[[], None]] = []
        self._storage = storage_at(place, partial(_connect, cache_bytes=cache_mib * 2**19))
        self._database = self._storage.database
        self._known = set(self._storage.found)

    def close(self) -> None:
        """Lets the place go; safe to call twice."""
        self._storage.close()

    def when_changed(self, forget: Callable[[], None]) -> None:
        """Has `forget` called when somebody else is found to have written here: whoever keeps something of the tables
        in memory must not go on with it."""
        self._forget.append(forget)

    # --- reading -----------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All tables, in order of name."""
        names = sorted(name for name in self._storage.listed() if self.exists(name))
        self._known = set(names)
        return names

    def known(self) -> list[str]:
        """The tables as far as is known without asking the store, in no order. May be called from any thread."""
        return list(self._known)

    def stored_bytes(self) -> int | None:
        """Bytes of all files, as they were within the last minute; None in object storage. May be called from any
        thread."""
        return self._storage.stored_bytes()

    def exists(self, name: str) -> bool:
        """Whether there is a table of that name."""
        # What was seen needs no second look: nobody else deletes it, or else the next one to open it finds out.
        return name in self._seen or self._open(name) is not None

    def schema(self, name: str) -> pa.Schema:
        """The table's columns and metadata, as they are now."""
        return self._look(name).schema

    def count_rows(self, name: str) -> int:
        """Rows in the table."""
        return self._look(name).num_rows

    def scan(
        self, name: str, columns: list[str], ids: list[str] | None = None, *, with_places: bool = False
    ) -> Iterator[pa.RecordBatch]:
        """These columns of all rows, in no order, or of those whose column `id` is one of `ids`; with a column PLACE
        where asked, which `take` finds the row by until the table is changed."""
        query = self._require(name).search().select(columns).with_row_id(with_places)
        if ids is not None:
            query = query.where(col("id").isin(ids))
        return iter(query.to_batches())

    def take(self, name: str, columns: list[str], places: Iterable[int]) -> Iterator[pa.Table]:
        """These columns of the rows at `places`, as `scan` gave them, in that order: a table of one row each, and no
        more than one of them is read at a time."""
        table = self._require(name)
        for place in places:
            yield table.take_row_ids([place]).select(columns).to_arrow()

    # --- changing ----------------------------------------------------------------------------------------------

    def create(self, name: str, schema: pa.Schema) -> None:
        """Makes an empty table, where there is none."""
        self._storage.clear(name)
        self._commit(name, lambda: self._database.create_table(name, schema=schema))
        self._known.add(name)

    def overwrite(self, name: str, rows: pa.Table) -> None:
        """Replaces rows, columns and metadata, all at once, and frees the room that the rows before took."""
        self._require(name)
        before = self._seen[name]
        table = self._commit(name, lambda: self._database.create_table(name, data=rows, mode="overwrite"))
        self._not_before.pop(name, None)
        if before.num_rows:
            # Written at once, the rows are one fragment, so that nothing is left to compact.
            self._clean(name, table)

    def append(self, name: str, rows: pa.Table) -> None:
        """Adds rows."""
        table = self._require(name)

        def add() -> lancedb.table.Table:
            table.add(rows)
            return table

        self._compact_if_due(name, self._commit(name, add))

    def merge(self, name: str, rows: pa.Table, *, num_changed: int) -> None:
        """Replaces the rows with the ids of `rows`, which must be `num_changed`, and adds the others."""
        table = self._require(name)

        def merge() -> lancedb.table.Table:
            done = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
            if (done.num_updated_rows, done.num_inserted_rows) != (num_changed, len(rows) - num_changed):
                raise RuntimeError(f"asked to replace {num_changed} of {len(rows)} rows, LanceDB did {done}")
            return table

        self._compact_if_due(name, self._commit(name, merge))

    def delete(self, name: str) -> None:
        """Removes the table; nothing happens where there is none."""
        if name in self._seen:
            self._open(name)  # what nobody here has looked at may be deleted as it is, even if it cannot be opened
        self._seen.pop(name, None)
        self._not_before.pop(name, None)
        self._storage.delete(name)
        self._known.discard(name)

    # --- opening and committing --------------------------------------------------------------------------------

    def _look(self, name: str) -> _Seen:
        if name not in self._seen:
            self._require(name)
        return self._seen[name]

    def _require(self, name: str) -> lancedb.table.Table:
        table = self._open(name)
        if table is None:
            raise LookupError(f"there is no table {name!r}")
        return table

    def _open(self, name: str) -> lancedb.table.Table | None:
        """The table as it is now, None where there is none. Raises PreconditionFailed where it isn't as last seen."""
        # Anew each time, so that no handle is ever stale: in a directory well under a millisecond, in object storage
        # one request.
        table = self._storage.open(name)
        now, before = None if table is None else _see(table), self._seen.get(name)
        if before is not None and (now is None or not now.is_same(before)):
            raise self._changed(name)
        if now is not None:
            self._seen[name] = now
        return table

    def _commit(self, name: str, change: Callable[[], lancedb.table.Table]) -> lancedb.table.Table:
        """Makes a change that is one commit, durably. Raises PreconditionFailed where it came after one of another
        process."""
        # Forgotten while it is under way: if it fails, what came of it must be looked at again.
        before = self._seen.pop(name, None)
        with self._storage.durably(name):
            table = change()
        self._seen[name] = now = _see(table)
        if now.version != (0 if before is None else before.version) + 1:
            raise self._changed(name)
        return table

    def _changed(self, name: str) -> PreconditionFailed:
        self._seen.clear()
        for forget in self._forget:
            forget()
        return PreconditionFailed(
            "STORE_CHANGED",
            f"table {name!r} is not as this server left it: another one writes to the same store, "
            f"{self._storage.uri}, where one was expected; stop it, or give each a prefix of its own "
            "(BURNISH_EMBEDDING_STORE_URI), and restart this one, or call again: it has forgotten what it knew, and "
            "will look at what is stored",
        )

    def _compact_if_due(self, name: str, table: lancedb.table.Table) -> None:
        try:
            stats = table.stats()
        except Exception as error:
            log.warning("table %s is not compacted now, since its fragments cannot be counted: %s", name, error)
            return
        num_fragments = stats["fragment_stats"]["num_fragments"]
        # A compaction writes everything again, so that of a large table is put off for a while.
        patience = 1 if stats["total_bytes"] < _LARGE else 4
        if num_fragments < max(patience * self._compact_after, self._not_before.get(name, 0)):
            return
        before = self._seen.pop(name)
        try:
            with self._storage.durably(name):
                table.optimize()
        except Exception as error:
            # Something that was written but is perhaps not durable must not be built upon in silence.
            if not self._is_still(name, before):
                raise
            self._put_off(name, num_fragments, error)
            return
        self._not_before.pop(name, None)
        # Only now may the old files go.
        self._clean(name, table)
        # How many versions a compaction makes is Lance's affair, but it never adds rows.
        if name in self._seen and self._seen[name].num_rows != before.num_rows:
            raise self._changed(name)

    def _is_still(self, name: str, before: _Seen) -> bool:
        """Whether the table is as it was seen before; if so, that counts as seen again."""
        table = self._storage.open(name)
        if table is None or not _see(table).is_same(before):
            return False
        self._seen[name] = before
        return True

    def _put_off(self, name: str, num_fragments: int, error: Exception) -> None:
        """Goes on without a compaction that failed and left nothing: it would fail at every call from now on."""
        self._not_before[name] = 2 * num_fragments
        full = is_disk_full(error)
        log.warning(
            "table %s stays in %d fragments, since compacting it failed%s; its rows are stored, and it is tried again "
            "at %d fragments: %s",
            name,
            num_fragments,
            ": the disk is full, and for a while twice the table's room is needed; free some" if full else "",
            self._not_before[name],
            error,
            exc_info=None if full else error,
        )

    def _clean(self, name: str, table: lancedb.table.Table) -> None:
        """Removes the files that only versions before the last one name; these stay where that fails.

        In a directory we know that nobody uses them, as its only reader and writer. In object storage, files that no
        version names may belong to a commit that a second server is just making; Lance lets them lie for a week.
        """
        try:
            table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=self._storage.is_exclusive)
        except Exception as error:
            log.warning("files that table %s needs no more stay until its next compaction: %s", name, error)
        try:
            self._seen[name] = _see(table)
        except Exception as error:
            self._seen.pop(name, None)  # the next call looks at what is there
            log.warning("table %s cannot be looked at after its old files were removed: %s", name, error)


def check_format(name: str, found: object, expected: int) -> None:
    """Raises PreconditionFailed where the format that a table's metadata names is not the one we write."""
    if found != expected:
        raise PreconditionFailed(
            _UNKNOWN_FORMAT,
            f"table {name!r} is in format {'unknown' if found is None else found}, expected {expected}: another "
            "version of Burnish or another program wrote it; use that, or delete the collection",
        )


def first_readable(names: Iterable[str], get: Callable[[str], T], size: int) -> list[T]:
    """What the first `size` tables are, in order, without those that another program or version made: one of these
    would keep everybody from the others. Raises what `get` does for any other reason."""
    found: list[T] = []
    for name in names:
        if len(found) == size:
            break
        try:
            found.append(get(name))
        except PreconditionFailed as error:
            if error.reason != _UNKNOWN_FORMAT:
                raise
            log.warning("%s is left out of the list: %s", name, error)
    return found


def _connect(uri: str, options: dict[str, str] | None, *, cache_bytes: int) -> lancedb.db.DBConnection:
    caches = lancedb.Session(index_cache_size_bytes=cache_bytes, metadata_cache_size_bytes=cache_bytes)
    return lancedb.connect(uri, storage_options=options, session=caches)


def _see(table: lancedb.table.Table) -> _Seen:
    return _Seen(table.version, int(table.count_rows()), table.schema)
