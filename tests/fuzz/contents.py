"""Contents of files: valid ones with bytes changed, cut, doubled and put in, and rows of JSON that hold anything."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.messages import Draw

# What parsers stumble over: depth, length, numbers without end, halves of surrogate pairs, sizes of binary formats.
_MORSELS = [
    *(b"[" * 20_000, b'{"a":' * 20_000, b"[" * 20_000 + b"]" * 20_000, b"9" * 5000, b"-1", b"1e999", b"NaN", b"null"),
    *(
        b'"\\ud800"',
        b'"\\u0000"',
        b"\xff",
        b"\x00",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n",
        b'"',
        b"'",
        b",",
        b"}",
    ),
    *(
        b"[]",
        b"{}",
        b'""',
        b"true",
        b"x" * 5000,
        b"PAR1",
        b"ARROW1\x00\x00",
        b"a.b.c = 1\n",
        b"[[token]]\n",
        b"\xe2\x80\xa8",
    ),
    *(struct.pack("<i", 2**31 - 1), struct.pack("<i", -1), struct.pack("<q", 2**62), struct.pack("<q", -1), bytes(8)),
]
_TEXT = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "user", "assistant", "human", "gpt", "\ud800", "\x00", "[]"])
)
_NUMBER = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 2**63, 2**70, 10**400]))
_LEAF = st.one_of(st.none(), st.booleans(), _NUMBER, _TEXT)
ANYTHING = st.recursive(
    _LEAF, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)), max_leaves=6
)


@st.composite
def damaged(draw: Draw, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after some changes, or none; or bytes that never were a file."""
    if draw(st.integers(0, 19)) == 0:
        return bytes(draw(st.binary(max_size=200)))
    data = bytes(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 8]))):
        data = _changed(draw, data)
    return data


def _changed(draw: Draw, data: bytes) -> bytes:
    first, second = (draw(st.integers(0, len(data))) for _ in range(2))
    begin, end = min(first, second), max(first, second)
    match draw(st.integers(0, 6)):
        case 0:
            return data[:begin] + bytes([draw(st.integers(0, 255))]) + data[begin + 1 :]
        case 1:
            return data[:begin]
        case 2:
            return data[:begin] + data[end:]
        case 3:
            return data[:end] + data[begin:]
        case 4:
            return data[:begin] + bytes(draw(st.sampled_from(_MORSELS))) + data[begin:]
        case 5:
            morsel = bytes(draw(st.sampled_from(_MORSELS)))
            return data[:begin] + morsel + data[begin + len(morsel) :]
        case _:
            return data[:begin] + data[begin:end] * draw(st.integers(2, 50)) + data[end:]


@st.composite
def rows(draw: Draw, seeds: Sequence[bytes]) -> bytes:
    """Lines of JSON: those of a seed, with values changed into anything at some place."""
    lines = [line for line in bytes(draw(st.sampled_from(seeds))).decode("utf-8-sig").split("\n") if line]
    made = [_other(draw, json.loads(line), 0) if draw(st.booleans()) else json.loads(line) for line in lines]
    return "".join(json.dumps(row) + "\n" for row in made).encode()


def _other(draw: Draw, value: Any, depth: int) -> Any:
    """The value with another one somewhere in it."""
    if (depth and draw(st.integers(0, 2)) == 0) or not isinstance(value, dict | list) or not value:
        return draw(ANYTHING)
    if isinstance(value, list):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], _other(draw, value[place], depth + 1), *value[place + 1 :]]
    key = draw(st.sampled_from(sorted(value)))
    return {**value, key: _other(draw, value[key], depth + 1)}
