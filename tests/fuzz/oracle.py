"""What holds for every answer, whatever was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grpc
from google.protobuf.message import Message

from burnish.api.common.v1 import common_pb2
from tests.fuzz.calls import Outcome
from tests.fuzz.rpcs import Rpc

ERRORS_PAGE = Path(__file__).parents[2] / "docs" / "errors.md"

# Of a server that is well, whatever comes: never INTERNAL, UNKNOWN, DATA_LOSS, and no deadline is missed.
_CODES = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_LONGEST_MESSAGE = 4000  # characters; it travels twice in headers, of which clients take 8 to 16 KiB
_ITEM_STATUS = common_pb2.ItemStatus.DESCRIPTOR.full_name


def check(rpc: Rpc, outcome: Outcome) -> None:
    """Raises AssertionError where an answer is not as every answer must be."""
    said = f"{rpc.name}: {outcome.code.name} {outcome.reason}: {outcome.message[:500]}"
    assert outcome.code in _CODES, said
    for reply in outcome.replies:
        for status in statuses(reply):
            _check_item(rpc, status)
    if outcome.code is grpc.StatusCode.OK:
        return
    if outcome.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in outcome.message:
        return  # gRPC itself, before any code of ours
    assert outcome.domain == "burnish", f"without ErrorInfo: {said}"
    assert is_documented(outcome.reason), f"reason not in docs/errors.md: {said}"
    assert len(outcome.message) <= _LONGEST_MESSAGE, f"{len(outcome.message)} characters: {said}"
    if outcome.code is grpc.StatusCode.INVALID_ARGUMENT:
        words = set(re.findall(r"\w+", outcome.message))
        names_none = outcome.reason == "BAD_MESSAGE" or not rpc.field_names
        assert names_none or rpc.field_names & words, f"names no field: {said}"
        assert "expected" in words, f"does not say what was expected: {said}"


def _check_item(rpc: Rpc, status: common_pb2.ItemStatus) -> None:
    if status.code == 0:
        assert not status.reason + status.message, f"{rpc.name}: OK with {status}"
        return
    assert is_documented(status.reason), f"{rpc.name}: reason of an item not in docs/errors.md: {status}"
    assert status.message, f"{rpc.name}: says nothing: {status}"
    assert status.reason != "INTERNAL", f"{rpc.name}: {status}"


def statuses(message: Message) -> Iterator[common_pb2.ItemStatus]:
    """Every ItemStatus in a message, at any depth."""
    if isinstance(message, common_pb2.ItemStatus):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else [value]:
            yield from statuses(inner)


@cache
def documented_reasons() -> frozenset[str]:
    """The words in the first column of the tables of docs/errors.md."""
    rows = re.findall(r"^\| (`[^|]*) \|", ERRORS_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return frozenset(word for row in rows for word in re.findall(r"`([A-Z_…]+)`", row))


def is_documented(reason: str) -> bool:
    """Whether docs/errors.md has this reason; `BAD_…` there stands for all that begin so."""
    return reason in documented_reasons() or (reason.startswith("BAD_") and "BAD_…" in documented_reasons())
