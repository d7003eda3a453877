"""Requests that are no protobuf: gRPC would answer UNKNOWN, and log bytes and traceback as if that were a defect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from burnish_services.runtime.errors import InvalidRequest


class Undecodable:
    """Stands for a request whose bytes are not a message."""

    def __init__(self, size: int, error: DecodeError) -> None:
        self._size = size
        self._error = error

    def refusal(self, method: str) -> InvalidRequest:
        """What to answer."""
        return InvalidRequest(
            "BAD_MESSAGE",
            f"the request of {self._size} bytes cannot be decoded ({self._error}); expected the request message of"
            f" {method}, as protobuf; was it made from other .proto files, or cut off on the way?",
        )


Decode = Callable[[bytes], Any]


def tolerant(decode: Decode | None) -> Decode | None:
    """A deserializer that gives an Undecodable where `decode` would raise."""
    if decode is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return Undecodable(len(data), error)

    return attempt


async def each_decoded(requests: AsyncIterator[Message | Undecodable], method: str) -> AsyncIterator[Message]:
    """The requests of a stream. Raises InvalidRequest at one that is none."""
    async for request in requests:
        if isinstance(request, Undecodable):
            raise request.refusal(method)
        yield request
