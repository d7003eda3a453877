"""Any message of a proto, made from its descriptor: nearly valid ones, which get far into the code, and wild ones.

Nobody has to list fields here: what a field may hold follows from its kind. `Words` knows good values by a field's name
(a model that is there, a stored sample's id), so that a request passes the first checks; a share of the fields of each
message, from none to all, is wild nevertheless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

_DEEPEST = 6
_HUGE = 70_000  # characters: more than fits the headers that a refusal travels in

_WILD_TEXT = [
    *(
        "",
        " ",
        "\x00",
        "a\x00b",
        "\n",
        "\r\n2026-01-01 ERROR",
        "\x1b[31m",
        "\u2028",
        "\ufeff",
        "\u202e",
        "𝒳",
        "é" * 200,
    ),
    *(
        "x" * _HUGE,
        "ж" * (_HUGE // 2),
        "a" * 256,
        "a" * 257,
        "NaN",
        "-1",
        "0",
        "9" * 30,
        "²",
        "१",
        "null",
        "[]",
        "None",
    ),
    *("..", "../../../etc/passwd", "/" * 5000, "a/" * 200, "~", "~nobody-here/x", "%s%n{0}${x}", "{{ 7 * 7 }}"),
    *(
        "file://",
        "file://elsewhere/x",
        "file:///",
        "file:///%00",
        "file:///..",
        "http://[",
        "s3://bucket/key",
        "upload:",
    ),
    *("upload:sha256:" + "0" * 64, "sha256:" + "0" * 64, "sha256:" + "G" * 64, "sha256:", "'; DROP TABLE vectors; --"),
]
_WILD_NUMBERS = {
    "double": [0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e308, -1e308, math.inf, -math.inf, math.nan, 2**53 + 1.0],
    "float": [0.0, -0.0, 1.0, -1.0, 1e-40, 3e38, math.inf, -math.inf, math.nan],
    "int32": [0, 1, -1, 2, 10, 100, 1000, 2**31 - 1, -(2**31)],
    "uint32": [0, 1, 2, 100, 2**32 - 1],
    "int64": [0, 1, -1, 2, 100, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)],
    "uint64": [0, 1, 2, 100, 2**63, 2**64 - 1],
}
_NUMBER_KINDS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_SINT32: "int32",
    FieldDescriptor.TYPE_SFIXED32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_FIXED32: "uint32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_SINT64: "int64",
    FieldDescriptor.TYPE_SFIXED64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FIXED64: "uint64",
}
_ENUM_NUMBERS = [0, 1, 2, 3, 4, 99, -1, 2**31 - 1, -(2**31)]
_WILD_BYTES = [b"", b"\x00", b"\xff" * 3, b"x" * 7, b"y" * 100_000, b"\xed\xa0\x80", b"{" * 5000, b"[" * 100_000]


@dataclass(frozen=True, repr=False)
class Words:
    """Good values of numbers and text by a field's full name or its name, and whole messages by their full name."""

    fields: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    messages: Mapping[str, st.SearchStrategy[Message]] = field(default_factory=dict)

    def good(self, of: FieldDescriptor) -> st.SearchStrategy[Any] | None:
        """Values of a field that its checks let through, where such are known."""
        if of.message_type is not None or of.enum_type is not None:
            return None
        return self.fields.get(of.full_name, self.fields.get(of.name))


# Percent of a message's fields that are wild.
_SHARES = st.sampled_from([0, 0, 0, 3, 3, 10, 10, 30, 100])
_PERCENT = st.integers(0, 99)
_COUNTS = st.sampled_from([1, 1, 2, 3])
_WILD_COUNTS = st.sampled_from([0, 1, 2, 5, 40])
_WILD_STRINGS = st.one_of(st.sampled_from(_WILD_TEXT), st.text(max_size=20))
_BYTES = st.one_of(st.sampled_from(_WILD_BYTES), st.binary(max_size=40))
_BOOLEANS = st.booleans()
_WILD_NUMBER_STRATEGIES = {
    "double": st.one_of(st.sampled_from(_WILD_NUMBERS["double"]), st.floats()),
    "float": st.one_of(st.sampled_from(_WILD_NUMBERS["float"]), st.floats(width=32)),
    "int32": st.one_of(st.sampled_from(_WILD_NUMBERS["int32"]), st.integers(-(2**31), 2**31 - 1)),
    "uint32": st.one_of(st.sampled_from(_WILD_NUMBERS["uint32"]), st.integers(0, 2**32 - 1)),
    "int64": st.one_of(st.sampled_from(_WILD_NUMBERS["int64"]), st.integers(-(2**63), 2**63 - 1)),
    "uint64": st.one_of(st.sampled_from(_WILD_NUMBERS["uint64"]), st.integers(0, 2**64 - 1)),
}
_GOOD_NUMBERS = {kind: st.sampled_from([1, 0, 2, 3]) for kind in _WILD_NUMBERS} | {
    "double": st.sampled_from([1.0, 0.0, 0.5, 0.9]),
    "float": st.sampled_from([1.0, 0.0, 0.5]),
}


@st.composite
def messages(draw: Draw, descriptor: Descriptor, words: Words) -> Message:
    """A message of this kind. Strings are valid Unicode, as protobuf demands; nothing else need be valid."""
    return _message(draw, descriptor, words, draw(_SHARES), 0)


def _message(draw: Draw, descriptor: Descriptor, words: Words, wild: int, depth: int) -> Message:
    ready = words.messages.get(descriptor.full_name)
    if ready is not None and not _hits(draw, wild):
        return draw(ready)
    message = GetMessageClass(descriptor)()
    oneofs = [oneof for oneof in descriptor.oneofs if len(oneof.fields) > 1]
    chosen = {oneof.name: draw(st.sampled_from(oneof.fields)).name for oneof in oneofs}
    for one in descriptor.fields:
        real = one.containing_oneof is not None and one.containing_oneof.name in chosen
        if real and chosen[one.containing_oneof.name] != one.name:
            continue
        _fill(draw, message, one, words, wild, depth)
    return message


def _fill(draw: Draw, message: Message, one: FieldDescriptor, words: Words, wild: int, depth: int) -> None:
    is_wild = _hits(draw, wild)
    optional = one.has_presence or one.is_repeated
    if one.message_type is not None and depth >= _DEEPEST:
        return
    if optional and not _is_wanted(draw, one, words, is_wild):
        return
    if one.message_type is not None and one.message_type.GetOptions().map_entry:
        _fill_map(draw, message, one, words, wild)
    elif one.is_repeated:
        count = draw(_WILD_COUNTS if is_wild else _COUNTS)
        values = [_value(draw, one, words, wild, is_wild, depth) for _ in range(count)]
        if not is_wild and one.message_type is not None:
            _tell_apart(values)
        getattr(message, one.name).extend(values)
    elif one.message_type is not None:
        getattr(message, one.name).CopyFrom(_value(draw, one, words, wild, is_wild, depth))
    else:
        setattr(message, one.name, _value(draw, one, words, wild, is_wild, depth))


def _is_wanted(draw: Draw, one: FieldDescriptor, words: Words, is_wild: bool) -> bool:
    # What is not optional by the proto's words, but a message or a list, is mostly needed for the call to get far.
    if words.good(one) is not None or (one.message_type is not None and not is_wild):
        return draw(_PERCENT) < 92
    return draw(_PERCENT) < (50 if is_wild else 30)


def _fill_map(draw: Draw, message: Message, one: FieldDescriptor, words: Words, wild: int) -> None:
    entry = one.message_type.fields_by_name
    entries = getattr(message, one.name)
    for _ in range(draw(_COUNTS)):
        key, value = (_value(draw, entry[name], words, wild, _hits(draw, wild), _DEEPEST) for name in ("key", "value"))
        entries[key] = value


def _value(draw: Draw, one: FieldDescriptor, words: Words, wild: int, is_wild: bool, depth: int) -> Any:
    good = None if is_wild else words.good(one)
    if good is not None:
        return draw(good)
    if one.message_type is not None:
        return _message(draw, one.message_type, words, wild, depth + 1)
    if one.type == FieldDescriptor.TYPE_STRING:
        return draw(_WILD_STRINGS)
    if one.type == FieldDescriptor.TYPE_BYTES:
        return draw(_BYTES)
    if one.type == FieldDescriptor.TYPE_BOOL:
        return draw(_BOOLEANS)
    if one.enum_type is not None:
        known = [value.number for value in one.enum_type.values if value.number or not one.is_repeated]
        return draw(st.sampled_from([*known, *_ENUM_NUMBERS] if is_wild else [*known[1:], *known]))
    kind = _NUMBER_KINDS[one.type]
    return draw((_WILD_NUMBER_STRATEGIES if is_wild else _GOOD_NUMBERS)[kind])


def _tell_apart(values: list[Any]) -> None:
    """Gives the items of a batch ids of their own, wherever these stand; a batch with two alike is refused at once."""
    for number, value in enumerate(values):
        for holder in (value, getattr(value, "sample", None)):
            names = () if holder is None else holder.DESCRIPTOR.fields_by_name
            for name in ("id", "sample_id"):
                if name in names and len(getattr(holder, name)) == 1:
                    setattr(holder, name, chr(ord("a") + number))


def _hits(draw: Draw, percent: int) -> bool:
    return percent > 0 and (percent == 100 or draw(_PERCENT) < percent)
