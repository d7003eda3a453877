"""One request as bytes, sent to a server, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from tests.fuzz.rpcs import Rpc

# A call that takes longer hangs; a busy machine's slowness is far from it.
_DEADLINE = 60.0
# A stream may go on for as long as the run that it watches: so many messages are read of it, each awaited so long.
_MESSAGES = 30
_STREAM_SECONDS = 0.3


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `still_open`: the client left a stream that went on."""

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    domain: str = ""
    replies: tuple[Message, ...] = ()
    still_open: bool = False


def send(channel: grpc.Channel, rpc: Rpc, requests: Sequence[bytes]) -> Outcome:
    """Calls with requests as they are, protobuf or not."""
    method, response = rpc.method, GetMessageClass(rpc.response).FromString
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(rpc.path, response_deserializer=response)
    given = iter(requests) if method.client_streaming else requests[0]
    try:
        if method.server_streaming:
            return _read(call(given, timeout=_STREAM_SECONDS))
        return Outcome(grpc.StatusCode.OK, replies=(call(given, timeout=_DEADLINE),))
    except grpc.RpcError as error:
        return failure(error)


def _read(stream: Iterator[Message]) -> Outcome:
    replies: list[Message] = []
    try:
        for reply in stream:
            replies.append(reply)
            if len(replies) >= _MESSAGES:
                stream.cancel()  # type: ignore[attr-defined]
                return Outcome(grpc.StatusCode.OK, replies=tuple(replies), still_open=True)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Outcome(grpc.StatusCode.OK, replies=tuple(replies), still_open=True)
        raise
    return Outcome(grpc.StatusCode.OK, replies=tuple(replies))


def failure(error: grpc.RpcError) -> Outcome:
    """What a failed call says."""
    reason = domain = ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    reason, domain = info.reason, info.domain
    return Outcome(error.code(), error.details() or "", reason, domain)
