"""Arrow values as JSON values and back. What JSON cannot hold (dates, decimals, bytes) is text in between.

Going there and back through a column's own type loses nothing, except inside nested columns: one that holds such
values comes back as JSON text.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def decode_schema(text: str) -> pa.Schema:
    """The schema that `encode_schema` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def json_values(column: pa.Array) -> list[Any]:
    """A column as JSON values."""
    kind = column.type
    if pa.types.is_duration(kind):
        return column.cast(pa.int64()).to_pylist()
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string()).to_pylist()
    if pa.types.is_nested(kind):
        return [json.loads(json.dumps(value, default=_text)) for value in column.to_pylist()]
    return [_text(value) if isinstance(value, bytes) else value for value in column.to_pylist()]


def writable_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that JSON values can be turned back to; every column may hold null."""
    fields = [
        pa.field(f.name, pa.string() if pa.types.is_nested(f.type) and _odd(f.type) else f.type, metadata=f.metadata)
        for f in schema
    ]
    return pa.schema(fields, metadata=schema.metadata)


def arrow_batch(records: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Records of JSON values under a writable schema; columns that a record lacks are null."""
    columns = [_column([record.get(field.name) for record in records], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_duration(kind):
        return pa.array(values, pa.int64()).cast(kind)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return pa.array(values, pa.string()).cast(kind)
    if _is_binary(kind):
        return pa.array([None if value is None else base64.b64decode(value) for value in values], kind)
    if pa.types.is_string(kind):
        values = [v if v is None else _writable(v) for v in values]
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, kind)


def _odd(kind: pa.DataType) -> bool:
    """True where a type holds, at any depth, what JSON cannot."""
    if pa.types.is_nested(kind):
        return pa.types.is_map(kind) or any(_odd(kind.field(index).type) for index in range(kind.num_fields))
    return pa.types.is_temporal(kind) or pa.types.is_decimal(kind) or _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _writable(value: object) -> str:
    """Text as it is, others as JSON; halves of surrogate pairs, which Arrow's text does not have, become “?”."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="replace").decode()


def _text(value: object) -> str:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
