"""Requests to every RPC, each checked by the oracle. Used by the tests, with few, and by `make fuzz`, with many."""

from __future__ import annotations

from collections import Counter

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from tests.fuzz.calls import send
from tests.fuzz.messages import Draw, Words, messages
from tests.fuzz.oracle import check
from tests.fuzz.rpcs import Rpc

_UNKNOWN_FIELD = b"\xfa\x7f\x05never"  # field 2047, of which no message of ours knows
Counts = Counter[tuple[str, str, str]]


def requests(rpc: Rpc, words: Words) -> st.SearchStrategy[list[bytes]]:
    """What is sent in one call: mostly messages of the right kind, some with fields that nobody knows, some cut off or
    changed in a byte, some no protobuf at all. Unary methods take the first."""
    one = _bytes(messages(rpc.request, words))
    return st.lists(one, min_size=0, max_size=4) if rpc.method.client_streaming else one.map(lambda data: [data])


@st.composite
def _bytes(draw: Draw, whole: st.SearchStrategy[Message]) -> bytes:
    kind = draw(st.integers(0, 19))
    if kind == 19:
        return bytes(draw(st.binary(max_size=60)))
    data = bytes(draw(whole).SerializeToString())
    if kind == 18:
        return data[: draw(st.integers(0, len(data)))]
    if kind == 17 and data:
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data + _UNKNOWN_FIELD if kind == 16 else data


def fuzz(rpc: Rpc, words: Words, channel: grpc.Channel, count: int, number: int | None = None) -> tuple[Counts, str]:
    """Sends `count` requests; returns how many ended in which code, and what is wrong with an answer, if one is: of the
    smallest such request that was found. `number` is the seed; None: always the same ones."""
    ended: Counts = Counter()
    wrong: list[str] = []  # the answer last found to be wrong, and what it answered

    def once(sent: list[bytes]) -> None:
        outcome = send(channel, rpc, sent)
        ended[rpc.name, outcome.code.name, outcome.reason] += 1
        try:
            check(rpc, outcome)
        except AssertionError as error:
            wrong[:] = [str(error), *(_text(rpc, data) for data in sent)]
            raise

    limits = settings(
        max_examples=count,
        derandomize=number is None,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    test = limits(given(requests(rpc, words))(once))
    try:
        (test if number is None else seed(number)(test))()
    except (AssertionError, Flaky):  # flaky: what is there has changed since
        return ended, "\n    was the answer to ".join(wrong)
    return ended, ""


def _text(rpc: Rpc, data: bytes) -> str:
    try:
        said = str(GetMessageClass(rpc.request).FromString(data)).replace("\n", " ")
    except DecodeError:
        said = repr(data)
    return f"{{{said[:1500]}}}"
