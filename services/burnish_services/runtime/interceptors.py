"""What happens around every call: phase, admission, errors, and telling of it. Knows no domain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import Message

from burnish_services.engine.base import EngineDead
from burnish_services.runtime.admission import Admission
from burnish_services.runtime.calls import CallRecord, current_call, open_call
from burnish_services.runtime.decoding import Undecodable, each_decoded, tolerant
from burnish_services.runtime.departures import if_still_there
from burnish_services.runtime.errors import (
    InternalError,
    ReplyTooLarge,
    ServiceError,
    Unavailable,
    abort_status,
    service_error,
)
from burnish_services.runtime.lifecycle import Lifecycle
from burnish_services.runtime.reporting import CallReporter, count_outcomes, ids_of

log = logging.getLogger(__name__)

# How long a stream may still deliver what is on its way when the server drains.
_FAREWELL_SECONDS = 0.25

Context = grpc.aio.ServicerContext[Message, Message]


class CallGuard(grpc.aio.ServerInterceptor):
    """Guards the calls of the services named in `admissions`; lets health and reflection through. A reply has at most
    `max_message_bytes`."""

    def __init__(
        self, lifecycle: Lifecycle, admissions: dict[str, Admission], reporter: CallReporter, max_message_bytes: int
    ) -> None:
        self._lifecycle = lifecycle
        self._admissions = admissions
        self._reporter = reporter
        self._max_message_bytes = max_message_bytes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the handler, if it is one of ours."""
        handler = await continuation(handler_call_details)
        service, _, _ = handler_call_details.method.removeprefix("/").partition("/")
        admission = self._admissions.get(service)
        if handler is None or admission is None:
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._guard_stream(handler_call_details, admission, handler.unary_stream),
                request_deserializer=tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._guard_unary(handler_call_details, admission, self._while_serving(handler.stream_unary)),
                request_deserializer=tolerant(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._guard_unary(handler_call_details, admission, handler.unary_unary),
            request_deserializer=tolerant(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _guard_unary(self, details: grpc.HandlerCallDetails, admission: Admission, inner: Any) -> Any:
        # GetInfo must answer on a busy server, and on one that is still loading.
        always = details.method.endswith("/GetInfo")

        async def call(request: Message | AsyncIterator[Message], context: Context) -> Message:
            record = self._reporter.open(details.method, details.invocation_metadata)
            record.budget, record.items = admission.tokens, _count_items(request)
            open_call(record)
            code, reason = grpc.StatusCode.OK, ""
            try:
                if isinstance(request, Undecodable):
                    raise request.refusal(record.method)
                if always:
                    return await inner(request, context)
                self._lifecycle.check_serving()
                with admission.slot() if isinstance(request, Message) else admission.stream():
                    reply: Message = await inner(request, context)
                self._check_size(reply)
                record.outcomes = count_outcomes(reply)
                return reply
            except asyncio.CancelledError:
                code = _cancellation(context)
                raise
            except Exception as error:
                failure = self._failure(error, record)
                code, reason = failure.code, failure.reason
                await _abort(context, failure)
            finally:
                self._reporter.close(record, code, reason)

        return call

    def _while_serving(self, inner: Any) -> Any:
        async def arriving(requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
            # A long upload that was cut off at the end of the grace would not look like one to send again.
            async for request in requests:
                self._lifecycle.check_serving()
                yield request

        async def call(requests: AsyncIterator[Message], context: Context) -> Message:
            return await inner(arriving(each_decoded(requests, current_call().method)), context)

        return call

    def _guard_stream(self, details: grpc.HandlerCallDetails, admission: Admission, inner: Any) -> Any:
        async def call(request: Message, context: Context) -> AsyncIterator[Message]:
            record = self._reporter.open(details.method, details.invocation_metadata, is_stream=True)
            open_call(record)
            code, reason = grpc.StatusCode.OK, ""
            try:
                if isinstance(request, Undecodable):
                    raise request.refusal(record.method)
                self._lifecycle.check_serving()
                with admission.stream():
                    async with aclosing(_until_drained(inner(request, context), self._lifecycle)) as messages:
                        async for message in messages:
                            self._check_size(message)
                            record.items += 1
                            yield message
            except (asyncio.CancelledError, GeneratorExit):
                code = _cancellation(context)
                raise
            except Exception as error:
                failure = self._failure(error, record)
                code, reason = failure.code, failure.reason
                await _abort(context, failure)
            finally:
                self._reporter.close(record, code, reason)

        return call

    def _check_size(self, reply: Message) -> None:
        """Before the call is told of as one that went well. Raises ReplyTooLarge."""
        if (size := reply.ByteSize()) > self._max_message_bytes:
            raise ReplyTooLarge(size, self._max_message_bytes)

    def _failure(self, error: Exception, record: CallRecord) -> ServiceError:
        """What to answer for `error`, after telling the log and the lifecycle what they must know."""
        if isinstance(error, ExceptionGroup):
            # A task group in a handler; its other errors are those of tasks that were cancelled along.
            error = error.exceptions[0]
        if isinstance(error, EngineDead):
            self._lifecycle.fail(error)
        failure = service_error(error)
        if isinstance(failure, InternalError):
            found_by = {"method": record.method, **ids_of(record)}
            log.error("unexpected error", extra={**found_by, "id": failure.error_id}, exc_info=error)
        return failure


async def _abort(context: Context, failure: ServiceError) -> NoReturn:
    status = abort_status(failure)
    await if_still_there()
    await context.abort(status.code, status.details, status.trailing_metadata)


def _cancellation(context: Context) -> grpc.StatusCode:
    left = context.time_remaining()
    if left is not None and left <= 0:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def _count_items(request: Message | AsyncIterator[Message]) -> int:
    """Entries of the longest list in the request: its batch, whatever the service calls it; 0 for a stream."""
    if not isinstance(request, Message):
        return 0
    return max((len(value) for field, value in request.ListFields() if field.is_repeated), default=0)


async def _until_drained(stream: AsyncGenerator[Message], lifecycle: Lifecycle) -> AsyncGenerator[Message]:
    """The messages of `stream`, until the server drains: a stream that somebody watches would otherwise hold
    up the stop for the whole grace. Raises Unavailable then, so that the watcher resumes elsewhere."""
    drained = asyncio.ensure_future(lifecycle.draining.wait())
    step: asyncio.Future[Message] | None = None
    farewell_ends: float | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(stream))
            await asyncio.wait({step, drained}, return_when=asyncio.FIRST_COMPLETED)
            if drained.done():
                now = time.monotonic()
                farewell_ends = farewell_ends or now + _FAREWELL_SECONDS
                await asyncio.wait({step}, timeout=max(0.0, farewell_ends - now))
            if not step.done():
                raise Unavailable("DRAINING", "the server is stopping; watch again, on another replica or later")
            try:
                message = step.result()
            except StopAsyncIteration:
                return
            yield message
    finally:
        drained.cancel()
        try:
            if step is not None:
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
        finally:
            await stream.aclose()
