"""How a collection lies in a Lance table: its columns, and what the schema's metadata says. Arrow only, no store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from burnish_services.embedding.collection import Collection, EmbeddedText, FeatureLayout, TextRecord, Weights
from burnish_services.embedding.settings import ActivationSettings, FeatureSettings, Rule, Source
from burnish_services.embedding.tables import check_format
from burnish_services.engine.base import ActivationPooling

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
        "features": None if collection.features is None else asdict(collection.features),
        "weights": None if collection.weights is None else asdict(collection.weights),
        "dimension": collection.dimension,
        "layout": None if collection.layout is None else asdict(collection.layout),
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
    if collection.layout is not None:
        fields.append(pa.field("features", _features_type(collection.layout), nullable=False))
    return pa.schema(fields, metadata={_METADATA_KEY: json.dumps(metadata).encode()})


def collection_of(name: str, schema: pa.Schema, num_vectors: int) -> Collection:
    """The collection that a table's schema describes. Raises PreconditionFailed where we did not write it."""
    metadata = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    check_format(name, metadata.get("format"), _FORMAT)
    weights, features, layout = metadata["weights"], metadata.get("features"), metadata.get("layout")
    return Collection(
        name,
        Source(metadata["source"]),
        datetime.fromisoformat(metadata["create_time"]),
        None if features is None else feature_settings(features),
        None if weights is None else Weights(**weights),
        metadata["dimension"],
        None if layout is None else FeatureLayout(**layout),
        num_vectors,
    )


def feature_settings(written: Mapping[str, Any]) -> FeatureSettings:
    """What `dataclasses.asdict` made of them."""
    more = {key: value for key, value in written.items() if key not in ("activations", "rule")}
    return FeatureSettings(activation_settings(written["activations"]), Rule(written["rule"]), **more)


def activation_settings(written: Mapping[str, Any]) -> ActivationSettings:
    """What `dataclasses.asdict` made of them."""
    return ActivationSettings(
        Source(written["source"]), ActivationPooling(written["pooling"]), int(written["max_tokens"])
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
    if collection.layout is not None:
        columns.append(_features_column([text.features for text in texts.values()], collection.layout))
    return pa.Table.from_arrays(columns, schema=schema)


def records_in(batches: Iterable[pa.RecordBatch]) -> dict[str, TextRecord]:
    """What batches of `RECORD_COLUMNS` say, by id."""
    records: dict[str, TextRecord] = {}
    for batch in batches:
        columns = (batch[name].to_pylist() for name in RECORD_COLUMNS)
        for item, digest, num_tokens, truncated in zip(*columns, strict=True):
            records[item] = TextRecord(digest, num_tokens, truncated)
    return records


def _features_type(layout: FeatureLayout) -> pa.DataType:
    if layout.per_layer:
        return pa.list_(pa.field("item", pa.uint16(), nullable=False), layout.num_layers * layout.per_layer)
    return pa.list_(pa.field("item", pa.uint32(), nullable=False))


def _features_column(features: list[NDArray[Any] | None], layout: FeatureLayout) -> pa.Array:
    present = [ids for ids in features if ids is not None]
    assert len(present) == len(features), "a text without features in a collection with them"
    kind = _features_type(layout)
    number = np.uint16 if layout.per_layer else np.uint32
    values = pa.array(np.concatenate(present, dtype=number))
    if layout.per_layer:
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in present])]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), values, type=kind)
