"""How a collection lies in a Lance table: its columns, and what the schema's metadata says. Arrow only, no store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime

import numpy as np
import pyarrow as pa

from burnish_services.embedding.collection import Collection, EmbeddedText, Source, TextRecord, Weights
from burnish_services.runtime.errors import PreconditionFailed

_FORMAT = 1  # raised when older servers could no longer read what newer ones write
_METADATA_KEY = b"burnish.collection"
_ID = pa.field("id", pa.string(), nullable=False)
RECORD_COLUMNS = ["id", "text_digest", "num_tokens", "truncated"]


def schema_of(collection: Collection) -> pa.Schema:
    """Columns and metadata. While the collection is empty the length of its vectors is unknown, and it has no
    column for them."""
    metadata = {
        "format": _FORMAT,
        "source": collection.source.value,
        "create_time": collection.create_time.isoformat(),
        "weights": None if collection.weights is None else asdict(collection.weights),
        "dimension": collection.dimension,
    }
    fields = [_ID]
    if collection.weights is not None:
        number = pa.field("item", pa.float32(), nullable=False)
        fields += [
            pa.field("text_digest", pa.string(), nullable=False),
            pa.field("num_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("vector", pa.list_(number, collection.dimension), nullable=False),
        ]
    return pa.schema(fields, metadata={_METADATA_KEY: json.dumps(metadata).encode()})


def collection_of(name: str, schema: pa.Schema, num_vectors: int) -> Collection:
    """The collection that a table's schema describes. Raises PreconditionFailed where we did not write it."""
    metadata = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    if metadata.get("format") != _FORMAT:
        raise PreconditionFailed(
            "UNKNOWN_FORMAT",
            f"table {name!r} is in format {metadata.get('format', 'unknown')}, expected {_FORMAT}: another version of "
            "Burnish or another program wrote it; use that, or delete the collection",
        )
    weights = metadata["weights"]
    return Collection(
        name,
        Source(metadata["source"]),
        datetime.fromisoformat(metadata["create_time"]),
        None if weights is None else Weights(**weights),
        metadata["dimension"],
        num_vectors,
    )


def rows_of(texts: Mapping[str, EmbeddedText], collection: Collection) -> pa.Table:
    """A row for each text, by id."""
    records = [text.record for text in texts.values()]
    numbers = pa.array(np.concatenate([text.vector for text in texts.values()], dtype=np.float32))
    schema = schema_of(collection)
    columns = [
        pa.array(list(texts)),
        pa.array([record.digest for record in records]),
        pa.array([record.num_tokens for record in records], pa.int32()),
        pa.array([record.truncated for record in records]),
        pa.FixedSizeListArray.from_arrays(numbers, type=schema.field("vector").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def records_in(batches: Iterable[pa.RecordBatch]) -> dict[str, TextRecord]:
    """What batches of `RECORD_COLUMNS` say, by id."""
    records: dict[str, TextRecord] = {}
    for batch in batches:
        columns = (batch[name].to_pylist() for name in RECORD_COLUMNS)
        for item, digest, num_tokens, truncated in zip(*columns, strict=True):
            records[item] = TextRecord(digest, num_tokens, truncated)
    return records
