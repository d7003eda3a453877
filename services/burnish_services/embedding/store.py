"""Collections of vectors and features: who is in them, what is stored anew, and how they are read. Knows no LanceDB.

A collection is one table, and what is known of it (source, weights, dimension, time) stands in the table's schema, so
that what is said of the vectors and the vectors cannot disagree. Blocking, and not safe for threads, like `tables.py`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from burnish_services.embedding.collection import Collection, EmbeddedText, FeatureLayout, TextRecord, Weights
from burnish_services.embedding.layout import RECORD_COLUMNS, collection_of, records_in, rows_of, schema_of
from burnish_services.embedding.settings import FeatureSettings, Source
from burnish_services.embedding.tables import Tables, first_readable
from burnish_services.runtime.errors import AlreadyExists, NotFound, PreconditionFailed

_CACHED_INDEXES = 4  # collections whose ids are kept in memory, about 300 bytes each
_FEW = 1024  # ids looked up by a filter; for more, everything is read
_NAMED_IDS = 3  # ids listed in an error message

Index = dict[str, TextRecord]


class VectorStore:
    """All collections among these tables: those whose names have no dot."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._indexes: OrderedDict[str, Index] = OrderedDict()
        tables.when_changed(self._indexes.clear)

    # --- collections -------------------------------------------------------------------------------------------

    def create(self, name: str, source: Source, features: FeatureSettings | None = None) -> Collection:
        """The collection of that name, created empty where there is none. Raises AlreadyExists where there is one
        of another source or with other features."""
        if not self._tables.exists(name):
            collection = Collection(name, source, datetime.now(UTC), features)
            self._tables.create(name, schema_of(collection))
            return collection
        collection = self.get(name)
        for what, found, wanted in (
            ("source", collection.source.value, source.value),
            ("features", collection.features, features),
        ):
            if found != wanted:
                raise AlreadyExists(
                    "COLLECTION_EXISTS",
                    f"collection {name!r} exists with {what} {found!r}, not {wanted!r}; choose another name, or delete "
                    "it first",
                )
        return collection

    def get(self, name: str) -> Collection:
        """The collection as it is now. Raises NotFound."""
        self._require(name)
        return collection_of(name, self._tables.schema(name), self._tables.count_rows(name))

    def page(self, size: int, after: str = "") -> list[Collection]:
        """Up to `size` collections whose names come after `after`, in order of name."""
        names = [name for name in self._tables.names() if name > after and "." not in name]
        return first_readable(names, self.get, size)

    def delete(self, name: str) -> None:
        """Removes the collection; nothing happens where there is none."""
        self._indexes.pop(name, None)
        self._tables.delete(name)

    # --- vectors -----------------------------------------------------------------------------------------------

    def find(self, name: str, ids: Sequence[str]) -> tuple[Collection, Index]:
        """The collection, and what is known of those of the ids that are in it. Raises NotFound."""
        index = self._index(name)
        return self.get(name), {item: index[item] for item in ids if item in index}

    def put(
        self,
        name: str,
        weights: Weights,
        texts: Mapping[str, EmbeddedText],
        layout: FeatureLayout | None = None,
        created: datetime | None = None,
    ) -> int:
        """Stores vectors and features by id, in one commit, and returns how many that were: ids stored with the same
        text are left alone, those stored with another text are replaced. `layout` is that of the features,
        `created` when the collection was made that they were computed for.

        Durable on return. Raises NotFound, and PreconditionFailed where other weights filled the collection, or it was
        made anew meanwhile.
        """
        collection = self.get(name)
        if created not in (None, collection.create_time):
            raise PreconditionFailed(
                "COLLECTION_CHANGED",
                f"collection {name!r} was deleted and made anew while samples were embedded for it; embed them again",
            )
        check_weights(collection, weights)
        index = self._index(name)
        changed = {item for item in texts if item in index and index[item].digest != texts[item].record.digest}
        rows = {item: text for item, text in texts.items() if item in changed or item not in index}
        if not rows:
            return 0
        # Forgotten while the commit is under way: if it fails, what is stored must be read again.
        del self._indexes[name]
        if collection.weights is None:
            # Overwriting is one commit too: the weights become known together with the first vectors.
            filled = collection.filled_by(weights, len(next(iter(rows.values())).vector), layout)
            self._tables.overwrite(name, rows_of(rows, filled))
        elif changed:
            self._tables.merge(name, rows_of(rows, collection), num_changed=len(changed))
        else:
            self._tables.append(name, rows_of(rows, collection))
        index.update({item: text.record for item, text in rows.items()})
        self._remember(name, index)
        return len(rows)

    def present(self, name: str, ids: Sequence[str] | None = None) -> list[str]:
        """`ids`, each once, or all, ascending. Raises NotFound for the collection, and PreconditionFailed where an id
        is not in it."""
        index = self._index(name)
        wanted = sorted(index if ids is None else set(ids))
        missing = [item for item in wanted if item not in index]
        if missing:
            raise PreconditionFailed(
                "SAMPLE_NOT_EMBEDDED",
                f"{len(missing)} of {len(wanted)} ids are not in collection {name!r}, such as "
                f"{', '.join(map(repr, missing[:_NAMED_IDS]))}; embed them into it first",
            )
        return wanted

    def read(self, name: str, ids: Sequence[str] | None = None) -> tuple[Collection, list[str], NDArray[np.float32]]:
        """The collection, ids as `present` gives them, and their vectors, a row each. Raises as `present` does."""
        collection, wanted = self.get(name), self.present(name, ids)
        vectors = np.empty((len(wanted), collection.dimension), np.float32)
        for rows, column in self._column(name, "vector", wanted):
            vectors[rows] = column.flatten().to_numpy().reshape(-1, collection.dimension)
        return collection, wanted, vectors

    def read_features(self, name: str, ids: Sequence[str]) -> NDArray[np.uint16] | list[NDArray[np.uint32]]:
        """Features of `ids` as `present` gives them: a uint16 matrix where the layout is packed, else a uint32 array
        for each. Raises NotFound, and PreconditionFailed where the collection has no features."""
        collection = self.get(name)
        layout = collection.layout
        if layout is None:
            why = "is empty" if collection.features is not None else "was created without them"
            raise PreconditionFailed(
                "NO_FEATURES",
                f"collection {name!r} has no features: it {why}; embed samples into one with FeatureSettings",
            )
        wanted = list(ids)
        if not layout.per_layer:
            lists: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)] * len(wanted)
            for rows, column in self._column(name, "features", wanted):
                for row, features in zip(rows.tolist(), column, strict=True):
                    lists[row] = features.values.to_numpy()
            return lists
        packed = np.empty((len(wanted), layout.num_layers * layout.per_layer), np.uint16)
        for rows, column in self._column(name, "features", wanted):
            packed[rows] = column.flatten().to_numpy().reshape(len(rows), -1)
        return packed

    def records(self, name: str, ids: Sequence[str]) -> list[TextRecord]:
        """What is known of each of the ids, all of them in the collection."""
        index = self._index(name)
        return [index[item] for item in ids]

    def _column(self, name: str, column: str, wanted: list[str]) -> Iterator[tuple[NDArray[np.intp], Any]]:
        """The column's values of the wanted ids, a batch at a time, each with the positions in `wanted`."""
        row_of = {item: row for row, item in enumerate(wanted)}
        found = 0
        if wanted:
            for batch in self._tables.scan(name, ["id", column], wanted if len(wanted) <= _FEW else None):
                rows = np.array([row_of.get(item, -1) for item in batch["id"].to_pylist()], np.intp)
                found += int(np.count_nonzero(rows >= 0))
                yield rows[rows >= 0], batch[column].filter(pa.array(rows >= 0))
        if found != len(wanted):
            raise RuntimeError(f"asked for {len(wanted)} rows of collection {name!r}, LanceDB gave {found}")

    def _require(self, name: str) -> None:
        if not self._tables.exists(name):
            raise NotFound("COLLECTION_NOT_FOUND", f"there is no collection {name!r}; create it with CreateCollection")

    def _index(self, name: str) -> Index:
        self._require(name)
        index = self._indexes.get(name)
        if index is None:
            num_rows = self._tables.count_rows(name)
            index = records_in(self._tables.scan(name, RECORD_COLUMNS)) if num_rows else {}
            if len(index) != num_rows:
                raise RuntimeError(f"collection {name!r} has {num_rows} rows but {len(index)} ids; delete it")
        self._remember(name, index)
        return index

    def _remember(self, name: str, index: Index) -> None:
        self._indexes[name] = index
        self._indexes.move_to_end(name)
        while len(self._indexes) > _CACHED_INDEXES:
            self._indexes.popitem(last=False)


def check_weights(collection: Collection, weights: Weights) -> None:
    """Raises PreconditionFailed where vectors of `weights` must not be put into the collection."""
    held, templated = collection.weights, collection.is_templated
    if held is not None and not held.fits(weights, templated=templated):
        advice = held.advice(weights, templated=templated, otherwise="name a collection of its own for each model")
        raise PreconditionFailed(
            "OTHER_WEIGHTS",
            f"collection {collection.name!r} holds vectors of {held}, not of {weights}, and vectors of different "
            f"weights or number formats, or chat templates where those are embedded, must not be mixed; {advice}",
        )
