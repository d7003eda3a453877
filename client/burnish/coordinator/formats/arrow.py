"""Arrow values as JSON values and back. What JSON cannot hold (dates, times, decimals, bytes, UUIDs) is text in
between.

Going there and back through a column's own type loses nothing, except inside nested columns: one that holds such
values comes back as JSON text. Dictionaries that Parquet does not write come back as the values that they stand for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import pyarrow as pa

_UUID, _BOOL8, _JSON = "arrow.uuid", "arrow.bool8", "arrow.json"


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def decode_schema(text: str) -> pa.Schema:
    """The schema that `encode_schema` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def json_values(column: pa.Array) -> list[Any]:
    """A column as JSON values."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return json_values(_decoded(column))
    if _is_extension(kind) and kind.extension_name not in (_UUID, _BOOL8):
        return json_values(column.storage)
    if pa.types.is_duration(kind):
        return column.cast(pa.int64()).to_pylist()
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string()).to_pylist()
    if pa.types.is_nested(kind):
        return [json.loads(json.dumps(value, default=_text)) for value in column.to_pylist()]
    return [value if isinstance(value, str | int | float | None) else _text(value) for value in column.to_pylist()]


def writable_schema(schema: pa.Schema) -> pa.Schema:
    """The schema that JSON values can be turned back to; every column may hold null."""
    fields = [pa.field(f.name, _writable_type(f.type), metadata=f.metadata) for f in schema]
    return pa.schema(fields, metadata=schema.metadata)


def roomy_schema(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    """The schema with room, in the columns of these names, for texts that the source does not hold."""
    fields = [field.with_type(_roomy_type(field.type)) if field.name in names else field for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def wide_ids(schema: pa.Schema, name: str) -> pa.Schema:
    """The schema with room for any number in the column of this name, where it holds whole numbers."""
    place = schema.get_field_index(name)
    if place < 0 or not pa.types.is_integer(schema.field(place).type) or pa.types.is_uint64(schema.field(place).type):
        return schema
    return schema.set(place, schema.field(place).with_type(pa.int64()))


def arrow_batch(records: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Records of JSON values under a writable schema; columns that a record lacks are null."""
    columns = [_column([record.get(field.name) for record in records], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return _column(values, kind.value_type).dictionary_encode().cast(kind)
    if _is_extension(kind):
        return pa.ExtensionArray.from_storage(kind, _storage(values, kind))
    if pa.types.is_duration(kind):
        return pa.array(values, pa.int64()).cast(kind)
    if pa.types.is_time(kind):
        moments = [None if value is None else f"1970-01-01 {value}" for value in values]  # Arrow reads no time alone
        return pa.array(moments, pa.string()).cast(pa.timestamp(kind.unit)).cast(kind)
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return pa.array(values, pa.string()).cast(kind)
    if _is_binary(kind):
        return pa.array([None if value is None else base64.b64decode(value) for value in values], kind)
    if _is_text(kind):
        values = [v if v is None else _writable(v) for v in values]
    return pa.array(values, kind)


def _storage(values: list[Any], kind: pa.DataType) -> pa.Array:
    """What an extension type is made of."""
    if kind.extension_name == _UUID:
        return pa.array([None if value is None else UUID(value).bytes for value in values], kind.storage_type)
    if kind.extension_name == _BOOL8:
        return pa.array([None if value is None else int(value) for value in values], kind.storage_type)
    return _column(values, kind.storage_type)


def _decoded(column: pa.DictionaryArray) -> pa.Array:
    """The values that a dictionary's column stands for."""
    try:
        return column.dictionary_decode()
    except pa.ArrowNotImplementedError:  # Arrow cannot take from views
        places, values = column.indices.to_pylist(), column.dictionary
        return pa.array([None if place is None else values[place].as_py() for place in places], values.type)


def _writable_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind if _in_dictionaries(kind.value_type) else _writable_type(kind.value_type)
    stored = kind.storage_type if _is_extension(kind) else kind
    return pa.string() if pa.types.is_nested(stored) and _odd(stored) else kind


def _roomy_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)  # 8 bits count no 129th text
    holds_text = _is_text(kind) or (_is_extension(kind) and kind.extension_name == _JSON)
    return kind if holds_text or pa.types.is_nested(kind) or pa.types.is_null(kind) else pa.string()


def _odd(kind: pa.DataType) -> bool:
    """True where a type holds, at any depth, what JSON cannot."""
    if pa.types.is_nested(kind):
        return pa.types.is_map(kind) or any(_odd(kind.field(index).type) for index in range(kind.num_fields))
    if pa.types.is_dictionary(kind):
        return _odd(kind.value_type)
    return pa.types.is_temporal(kind) or pa.types.is_decimal(kind) or _is_binary(kind) or _is_extension(kind)


def _is_extension(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    some_size = pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind)
    return some_size or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _in_dictionaries(kind: pa.DataType) -> bool:
    """Whether pyarrow reads back as a dictionary what it wrote of one. Other dictionaries it writes as plain values, or
    refuses."""
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _writable(value: object) -> str:
    """Text as it is, others as JSON; halves of surrogate pairs, which Arrow's text does not have, become “?”."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode(errors="replace").decode()


def _text(value: object) -> str:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)
