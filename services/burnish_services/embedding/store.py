"""Collections of vectors on LanceDB: the only place that imports lancedb.

A collection is one Lance table, and what is known of it (source, weights, dimension, time) stands in the table's
schema. Every change is therefore one atomic commit of one table: what is said of the vectors and the vectors cannot
disagree, and a process killed at any moment leaves the state before the change or after it. What it may leave
besides, files that no version names, goes at the next start or compaction.

Blocking, and not safe for threads: its owner calls it from one thread, off the event loop (`worker.py`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import lancedb
import numpy as np
from lancedb.expr import col
from numpy.typing import NDArray

from burnish_services.embedding.collection import Collection, EmbeddedText, Source, TextRecord, Weights
from burnish_services.embedding.layout import RECORD_COLUMNS, collection_of, records_in, rows_of, schema_of
from burnish_services.embedding.lock import DirectoryLock
from burnish_services.runtime.errors import AlreadyExists, NotFound, PreconditionFailed

_CACHED_INDEXES = 4  # collections whose ids are kept in memory, about 300 bytes each
_CACHE_BYTES = 64 * 2**20  # of LanceDB, for what it knows of its files; by default it takes gigabytes
_LARGE = 256 * 2**20  # bytes of a table whose compaction is worth putting off
_FEW = 1024  # ids looked up by a filter; for more, everything is read
_NAMED_IDS = 3  # ids listed in an error message

Index = dict[str, TextRecord]


class VectorStore:
    """All collections in one directory, with this process as their only writer."""

    def __init__(self, directory: Path, *, compact_after: int = 64) -> None:
        """Opens the directory, made if missing, and clears what a killed process left. A collection in
        `compact_after` fragments is compacted. Raises DirectoryLocked where another process has it open."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = DirectoryLock(directory)
        self._directory = directory
        self._compact_after = compact_after
        self._indexes: OrderedDict[str, Index] = OrderedDict()
        self._clear_leftovers()
        caches = lancedb.Session(index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES)
        self._database = lancedb.connect(str(directory), session=caches)

    def close(self) -> None:
        """Lets the directory go; safe to call twice."""
        self._indexes.clear()
        self._lock.release()

    # --- collections -------------------------------------------------------------------------------------------

    def create(self, name: str, source: Source) -> Collection:
        """The collection of that name, created empty where there is none. Raises AlreadyExists where there is one
        of another source."""
        if not self._exists(name):
            collection = Collection(name, source, datetime.now(UTC))
            self._database.create_table(name, schema=schema_of(collection))
            self._make_durable(name, known=set())
            return collection
        collection = self.get(name)
        if collection.source != source:
            raise AlreadyExists(
                "COLLECTION_EXISTS",
                f"collection {name!r} exists and is of source {collection.source.value!r}, not {source.value!r}; "
                "choose another name, or delete it first",
            )
        return collection

    def get(self, name: str) -> Collection:
        """The collection as it is now. Raises NotFound."""
        table = self._open(name)
        return collection_of(name, table.schema, table.count_rows())

    def page(self, size: int, after: str = "") -> list[Collection]:
        """Up to `size` collections whose names come after `after`, in order of name."""
        names = sorted(path.stem for path in self._directory.glob("*.lance") if _is_table(path))
        return [self.get(name) for name in names if name > after][:size]

    def delete(self, name: str) -> None:
        """Removes the collection; nothing happens where there is none."""
        self._indexes.pop(name, None)
        path = self._path(name)
        if path.exists():
            # Renamed first: a table of which only a part is deleted would look like one that is there.
            doomed = self._directory / f".deleted-{time.time_ns()}"
            path.rename(doomed)
            _sync(self._directory)
            shutil.rmtree(doomed)

    # --- vectors -----------------------------------------------------------------------------------------------

    def find(self, name: str, ids: Sequence[str]) -> tuple[Collection, Index]:
        """The collection, and what is known of those of the ids that are in it. Raises NotFound."""
        index = self._index(name, self._open(name))
        return self.get(name), {item: index[item] for item in ids if item in index}

    def put(self, name: str, weights: Weights, texts: Mapping[str, EmbeddedText]) -> int:
        """Stores vectors by id, in one commit, and returns how many that were: ids stored with the same text are
        left alone, those stored with another text are replaced.

        Durable on return. Raises NotFound, and PreconditionFailed where other weights filled the collection.
        """
        table = self._open(name)
        collection = self.get(name)
        check_weights(collection, weights)
        index = self._index(name, table)
        changed = {item for item in texts if item in index and index[item].digest != texts[item].record.digest}
        rows = {item: text for item, text in texts.items() if item in changed or item not in index}
        if not rows:
            return 0
        # Forgotten while the commit is under way: if it fails, what is stored must be read again.
        del self._indexes[name]
        before = self._files(name)
        if collection.weights is None:
            # Overwriting is one commit too: the weights become known together with the first vectors.
            filled = collection.filled_by(weights, dimension=len(next(iter(rows.values())).vector))
            self._database.create_table(name, data=rows_of(rows, filled), mode="overwrite")
        elif changed:
            merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            done = merge.execute(rows_of(rows, collection))
            if (done.num_updated_rows, done.num_inserted_rows) != (len(changed), len(rows) - len(changed)):
                raise RuntimeError(f"asked to replace {len(changed)} of {len(rows)} rows, LanceDB did {done}")
        else:
            table.add(rows_of(rows, collection))
        self._make_durable(name, known=before)
        index.update({item: text.record for item, text in rows.items()})
        self._remember(name, index)
        self._compact_if_due(name)
        return len(rows)

    def read(self, name: str, ids: Sequence[str] | None = None) -> tuple[Collection, list[str], NDArray[np.float32]]:
        """The collection, ids in order, and their vectors, a row each: of `ids`, each once, or of all. Raises NotFound
        for the collection, and PreconditionFailed where an id is not in it."""
        table, collection = self._open(name), self.get(name)
        dimension = collection.dimension
        index = self._index(name, table)
        wanted = sorted(index if ids is None else set(ids))
        missing = [item for item in wanted if item not in index]
        if missing:
            raise PreconditionFailed(
                "SAMPLE_NOT_EMBEDDED",
                f"{len(missing)} of {len(wanted)} ids are not in collection {name!r}, such as "
                f"{', '.join(map(repr, missing[:_NAMED_IDS]))}; embed them into it first",
            )
        vectors = np.empty((len(wanted), dimension), np.float32)
        if not wanted:
            return collection, wanted, vectors
        query = table.search().select(["id", "vector"])
        if len(wanted) <= _FEW:
            query = query.where(col("id").isin(wanted))
        row_of = {item: row for row, item in enumerate(wanted)}
        found = 0
        for batch in query.to_batches():
            rows = np.array([row_of.get(item, -1) for item in batch["id"].to_pylist()], np.intp)
            numbers = batch["vector"].flatten().to_numpy().reshape(-1, dimension)
            vectors[rows[rows >= 0]] = numbers[rows >= 0]
            found += int(np.count_nonzero(rows >= 0))
        if found != len(wanted):
            raise RuntimeError(f"asked for {len(wanted)} vectors of collection {name!r}, LanceDB gave {found}")
        return collection, wanted, vectors

    # --- tables ------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.lance"

    def _exists(self, name: str) -> bool:
        return _is_table(self._path(name))

    def _open(self, name: str) -> lancedb.table.Table:
        # Anew each time, which takes well under a millisecond, so that no handle is ever stale.
        if not self._exists(name):
            raise NotFound("COLLECTION_NOT_FOUND", f"there is no collection {name!r}; create it with CreateCollection")
        return self._database.open_table(name)

    def _index(self, name: str, table: lancedb.table.Table) -> Index:
        index = self._indexes.get(name)
        if index is None:
            num_rows = table.count_rows()
            index = records_in(table.search().select(RECORD_COLUMNS).to_batches()) if num_rows else {}
            if len(index) != num_rows:
                raise RuntimeError(f"collection {name!r} has {num_rows} rows but {len(index)} ids; delete it")
        self._remember(name, index)
        return index

    def _remember(self, name: str, index: Index) -> None:
        self._indexes[name] = index
        self._indexes.move_to_end(name)
        while len(self._indexes) > _CACHED_INDEXES:
            self._indexes.popitem(last=False)

    def _compact_if_due(self, name: str) -> None:
        table = self._open(name)
        stats = table.stats()
        num_fragments = stats["fragment_stats"]["num_fragments"]
        # A compaction writes everything again, so that of a large table is put off for a while.
        patience = 1 if stats["total_bytes"] < _LARGE else 4
        if num_fragments < patience * self._compact_after:
            return
        before = self._files(name)
        table.optimize()
        self._make_durable(name, known=before)
        # Only now may the old files go. As the only reader and writer we know that nobody uses them.
        table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)

    def _files(self, name: str) -> set[tuple[str, str]]:
        """Directory and name of the table's files, which are written once and never changed (but for a hint that may
        be lost)."""
        return {(directory, file) for directory, _, files in os.walk(self._path(name)) for file in files}

    def _make_durable(self, name: str, known: set[tuple[str, str]]) -> None:
        """Has the system write out the files that are not `known` from before; Lance leaves that to chance."""
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


def check_weights(collection: Collection, weights: Weights) -> None:
    """Raises PreconditionFailed where vectors of `weights` must not be put into the collection."""
    if collection.weights is not None and not collection.weights.fits(weights):
        raise PreconditionFailed(
            "OTHER_WEIGHTS",
            f"collection {collection.name!r} holds vectors of {collection.weights}, not of {weights}, and vectors of "
            "different weights must not be mixed; name a collection of its own for each model",
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
