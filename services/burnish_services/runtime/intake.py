"""How much of clients' messages is in this process's memory at a time, and how long a client may take to send one.

gRPC reads the message of a unary call whole before it asks any handler, so that whoever begins many large calls and
stops in the middle fills the memory of a server that has not counted them. Here a message is asked for only once there
is a place for it; until then HTTP/2's flow control leaves it with the client. What has come is counted until its call
has ended and the client has taken the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from burnish_services.runtime.arrivals import PATIENCE, Places, Stalled
from burnish_services.runtime.decoding import Undecodable
from burnish_services.runtime.departures import if_still_there, to_its_end
from burnish_services.runtime.errors import InvalidRequest, Overloaded, ReplyTooLarge, ServiceError, abort_status
from burnish_services.runtime.health import CHECK
from burnish_services.runtime.reporting import CallReporter

Context = grpc.aio.ServicerContext[Any, Any]

# Messages up to this size are never refused, so that questions about health and limits are answered under load.
_SMALL = 64 * 2**10
_TOO_LITTLE_TIME = 0.05  # seconds
# Checks of health, which need no token, in progress and arriving at a time.
_MOST_CHECKS, _CHECK_PLACES = 256, 8


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """`max_calls`: in progress at a time, of every kind but checks of health. `max_bytes`: in messages of calls in
    progress. `max_message_bytes`: in one. `receive_seconds`: until one has arrived."""

    max_calls: int
    max_bytes: int
    max_message_bytes: int
    receive_seconds: float

    @property
    def places(self) -> int:
        """Messages that may be arriving at a time, so many that they have at most `max_bytes` together; >= 1."""
        return max(1, self.max_bytes // self.max_message_bytes)


@dataclass(eq=False, slots=True)
class _Lane:
    """Calls that take places from each other, and from no others. `most`: in progress at a time; `limit`: what that is
    called."""

    most: int
    limit: str
    places: Places
    calls: int = 0


@dataclass(eq=False, slots=True)
class _Call:
    """What one call holds of the limits."""

    context: Context
    read: Callable[[bytes], Any]
    lane: _Lane
    bytes: int = 0


class Intake(grpc.aio.ServerInterceptor):
    """Stands before every service, health and reflection included. What it refuses, `reporter` tells of: no interceptor
    behind it sees it. Checks of health have a lane of their own: they are answered whatever the load, and who needs no
    token for them takes no place of those who have one."""

    def __init__(self, limits: IntakeLimits, reporter: CallReporter) -> None:
        self._limits = limits
        self._reporter = reporter
        self._lane = _Lane(limits.max_calls, "--max-calls", Places(limits.places, limits.receive_seconds))
        seconds = min(PATIENCE, limits.receive_seconds)
        self._checks = _Lane(_MOST_CHECKS, "checks of health", Places(_CHECK_PLACES, seconds))
        self.bytes = 0

    @property
    def calls(self) -> int:
        """In progress, checks of health aside."""
        return self._lane.calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler in one that asks for its messages itself; on the wire that is the same."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        # Without serializers, gRPC hands over the bytes.
        if handler.response_streaming:
            inner = handler.stream_stream if handler.request_streaming else handler.unary_stream
            return grpc.stream_stream_rpc_method_handler(self._stream(handler_call_details, handler, inner))
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        return grpc.stream_unary_rpc_method_handler(self._unary(handler_call_details, handler, inner))

    def _unary(self, details: grpc.HandlerCallDetails, handler: grpc.RpcMethodHandler[Any, Any], inner: Any) -> Any:
        write = handler.response_serializer or bytes

        async def call(_: AsyncIterator[bytes], context: Context) -> bytes:
            try:
                _check_time(context)
                one = self._begin(context, handler, self._checks if details.method == CHECK else self._lane)
                request = self._messages(one) if handler.request_streaming else await self._only_message(one)
                reply = self._sendable(write(await inner(request, context)))
            except ServiceError as refusal:
                await self._refuse(context, details, refusal)
            self._count(one, len(reply))
            await if_still_there()
            return reply

        return call

    def _stream(self, details: grpc.HandlerCallDetails, handler: grpc.RpcMethodHandler[Any, Any], inner: Any) -> Any:
        write = handler.response_serializer or bytes

        async def call(_: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            try:
                one = self._begin(context, handler, self._lane)
                request = self._messages(one) if handler.request_streaming else await self._only_message(one)
                async with aclosing(inner(request, context)) as replies:
                    async for reply in replies:
                        yield self._sendable(write(reply))
            except ServiceError as refusal:
                await self._refuse(context, details, refusal)

        return call

    async def _refuse(self, context: Context, details: grpc.HandlerCallDetails, refusal: ServiceError) -> NoReturn:
        record = self._reporter.open(details.method, details.invocation_metadata)
        self._reporter.close(record, refusal.code, refusal.reason)
        status = abort_status(refusal)
        await if_still_there()
        await context.abort(status.code, status.details, status.trailing_metadata)

    def _begin(self, context: Context, handler: grpc.RpcMethodHandler[Any, Any], lane: _Lane) -> _Call:
        if lane.calls >= lane.most:
            raise Overloaded(
                "TOO_MANY_CALLS",
                f"this server has {lane.calls} calls and streams in progress and takes no more ({lane.limit}); wait and"
                " retry, keep fewer open, or add replicas",
            )
        lane.calls += 1
        call = _Call(context, handler.request_deserializer or bytes, lane)
        # gRPC's task for a call lives until the client has taken the reply, or has gone.
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda _: self._end(call))
        return call

    def _end(self, call: _Call) -> None:
        call.lane.calls -= 1
        self._count(call, -call.bytes)

    def _count(self, call: _Call, size: int) -> None:
        call.bytes += size
        self.bytes += size

    async def _only_message(self, call: _Call) -> Any:
        raw = await self._receive(call)
        if raw is grpc.aio.EOF:
            raise InvalidRequest("NO_MESSAGE", "the call ended without a request message; expected one")
        return _parsed(call, raw)

    async def _messages(self, call: _Call) -> AsyncIterator[Any]:
        while (raw := await self._receive(call)) is not grpc.aio.EOF:
            size = len(raw)
            yield _parsed(call, raw)
            self._count(call, -size)

    async def _receive(self, call: _Call) -> Any:
        """The next message's bytes, counted, or EOF. Raises Stalled, Overloaded."""
        try:
            raw = await call.lane.places.arrived(call.context.peer(), partial(to_its_end, call.context.read))
        except Stalled as stalled:
            raise self._too_slow(stalled) from None
        if raw is grpc.aio.EOF:
            return raw
        size = len(raw)
        if call.lane is self._checks:
            if size > _SMALL:
                said = f"a check of health has {size} bytes; expected the name of a service"
                raise InvalidRequest("BAD_MESSAGE", said, field="service")
            return raw
        if self.bytes and self.bytes + size > self._limits.max_bytes and size > _SMALL:
            raise Overloaded(
                "TOO_MANY_BYTES",
                f"the messages of calls in progress have {self.bytes} of at most {self._limits.max_bytes} bytes "
                f"(Limits.max_bytes_in_flight), replies that were not fetched included; {size} more are too many. Wait "
                "and retry, send smaller batches, or add replicas",
            )
        self._count(call, size)
        return raw

    def _sendable(self, reply: bytes) -> bytes:
        """The reply. Raises ReplyTooLarge, of services that nobody guards (`interceptors.py`)."""
        if len(reply) > self._limits.max_message_bytes:
            raise ReplyTooLarge(len(reply), self._limits.max_message_bytes)
        return reply

    def _too_slow(self, stalled: Stalled) -> ServiceError:
        waited = "while others waited for its place" if stalled.displaced else "in time"
        return ServiceError(
            grpc.StatusCode.ABORTED,
            "CLIENT_STALLED",
            f"the request did not arrive {waited}; expected within {self._limits.receive_seconds:g} s "
            f"(--receive-timeout), or {PATIENCE:g} s where the server is receiving as much as it can. Send it again, "
            "in smaller parts where the connection is slow",
            retryable=True,
            retry_after=1.0,
        )


def _check_time(context: Context) -> None:
    """Raises ServiceError for a call that can no longer be answered in time. Under a load that lasts, calls grow old in
    gRPC's own queue; were they worked all the same, all would be late, and none answered."""
    left = context.time_remaining()
    if left is not None and left < _TOO_LITTLE_TIME:
        raise ServiceError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "TOO_LATE",
            f"{max(left, 0.0) * 1000:.0f} ms of the call's deadline were left when the server came to it; expected"
            f" {_TOO_LITTLE_TIME * 1000:.0f} or more: allow more time, send fewer calls at a time, or add replicas",
        )


def _parsed(call: _Call, raw: bytes) -> Any:
    try:
        return call.read(raw)
    except DecodeError as error:  # of health and reflection; our own services' are in `decoding.py`
        raise Undecodable(len(raw), error).refusal("this method") from None
