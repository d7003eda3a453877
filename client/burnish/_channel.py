"""Connections, deadlines and retries of the SDK: all of the policy stands here, once.

Every RPC of the API is safe to repeat (writes carry an id or are keyed by content), so every call is retried, but only

* on UNAVAILABLE: no connection, or a server that starts, stops or lost its engine; and on CANCELLED that no server of
  ours wrote: it stopped under the call. For `connect_timeout` seconds where the address has not answered yet, for
  `reconnect_timeout` where it has (a replica may be restarting);
* on RESOURCE_EXHAUSTED, and ABORTED (a request that was sent too slowly), where the server says that trying again can
  help, after the wait it asks for;

with exponential backoff and jitter, and never past the call's deadline. Any other failure is final at once.
Each call has a deadline: the caller's `timeout`, else `request_timeout` of the options, else the table below. That of
the table, which nobody asked for, begins anew once a service that was away is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message as ProtoMessage

from burnish import __version__
from burnish._absence import Absence
from burnish._endpoints import UNIX, Endpoints, grpc_target
from burnish._errors import MalformedReply, ServiceError, UsageError
from burnish._outgoing import Outgoing, outgoing
from burnish._security import Metadata, Security
from burnish._status import CallStatus, brief, read_status, service_error
from burnish._window import Window

log = logging.getLogger("burnish")

MIB = 2**20
# Seconds. Model-bound calls may wait for a swap and for others' batches; keepalive finds dead servers long before.
DEFAULT_DEADLINES = {
    "GetInfo": 30.0,
    "LoadModel": 900.0,
    "ScoreSamples": 1800.0,
    "JudgeSamples": 3600.0,
    "EstimateConfidence": 3600.0,
    "ComparePairs": 1800.0,
    "EmbedSamples": 1800.0,
    "GetNeighborStatistics": 600.0,
    "MeasureSamples": 1800.0,
    "FinishCalibration": 1800.0,
    "SelectCoverage": 3600.0,
    "ProjectSamples": 1800.0,
    "RewriteSamples": 3600.0,
    "GenerateResponses": 3600.0,
    "UploadData": 3600.0,
    "CreateRun": 3600.0,  # its data may have to be fetched first
}
OTHER_DEADLINE = 60.0
_SHORTEST_KEEPALIVE = 10.0  # seconds, as in burnish_services/runtime/server.py

# Reasons of refusals that a smaller request may escape.
_TOO_MUCH = frozenset({"TOO_MANY_TOKENS", "TOO_MANY_BYTES"})
# True in the task of a request that its sender can divide (`_batches.py`).
divisible: ContextVar[bool] = ContextVar("burnish_divisible", default=False)


class TooMuchAtOnce(Exception):
    """A request that can be divided was refused for its size while it was the only one on the way: others keep the
    service so busy that there may never be room for all of it."""


RequestT = TypeVar("RequestT", bound=ProtoMessage)
ReplyT = TypeVar("ReplyT", bound=ProtoMessage)
Item = TypeVar("Item", bound=ProtoMessage)


class Unary(Protocol[RequestT, ReplyT]):
    """A stub's method that answers once."""

    def __call__(
        self, request: RequestT, /, *, timeout: float | None, metadata: Metadata, wait_for_ready: bool | None
    ) -> grpc.aio.UnaryUnaryCall[RequestT, ReplyT]:
        """Begins the call."""


class Stream(Protocol[RequestT, ReplyT]):
    """A stub's method that answers with a stream."""

    def __call__(
        self, request: RequestT, /, *, timeout: float | None, metadata: Metadata, wait_for_ready: bool | None
    ) -> grpc.aio.UnaryStreamCall[RequestT, ReplyT]:
        """Begins the call."""


class Upstream(Protocol[RequestT, ReplyT]):
    """A stub's method that takes a stream and answers once."""

    def __call__(
        self, *, timeout: float | None, metadata: Metadata, wait_for_ready: bool | None
    ) -> grpc.aio.StreamUnaryCall[RequestT, ReplyT]:
        """Begins the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How a client behaves towards every service. Times in seconds, sizes in bytes.

    `connect_timeout`: how long an address that never answered is tried. `reconnect_timeout`: how long one that did
    answer may be away. `request_timeout`: deadline of every request, None for the defaults of each RPC.
    `max_in_flight`: requests in progress at a time, per service. `max_message_bytes`: largest message sent or
    received. `max_batch_items`: most items in one request, None for what the server allows. `keepalive_seconds`: how
    often a quiet connection is checked, at least 10. `security`: TLS and who the client is.
    """

    connect_timeout: float = 10.0
    reconnect_timeout: float = 120.0
    request_timeout: float | None = None
    max_in_flight: int = 4
    max_message_bytes: int = 64 * MIB
    max_batch_items: int | None = None
    keepalive_seconds: float = 30.0
    initial_backoff: float = 0.2
    max_backoff: float = 5.0
    security: Security = field(default_factory=Security)

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "reconnect_timeout", "keepalive_seconds", "initial_backoff", "max_backoff"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)!r}; expected seconds, more than 0")
        if self.keepalive_seconds < _SHORTEST_KEEPALIVE:
            raise UsageError(
                f"keepalive_seconds is {self.keepalive_seconds!r}; expected {_SHORTEST_KEEPALIVE:g} or more: servers "
                "end connections that ping more often"
            )
        for name in ("request_timeout", "max_in_flight", "max_message_bytes", "max_batch_items"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value!r}; expected a number, more than 0")


class Connections:
    """The open channels of one client, one per address, all on the event loop that used them first."""

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False
        # Addresses that have answered something, and are therefore given more time to come back.
        self.answered: set[str] = set()

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to `address`, made at first use. Must be called on a running event loop."""
        if self.closed:
            raise UsageError("this client is closed; make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            raise UsageError(
                "this AsyncClient was used on another event loop before; make one client per event loop, or use Client"
            )
        self._loop = loop
        if address not in self._channels:
            target, options = grpc_target(address), channel_options(address, self.options)
            if self.options.security.encrypted:
                credentials = self.options.security.credentials()
                self._channels[address] = grpc.aio.secure_channel(target, credentials, options=options)
            else:
                self._channels[address] = grpc.aio.insecure_channel(target, options=options)
        return self._channels[address]

    def metadata(self, address: str) -> Metadata:
        """What goes with every call to `address`. Raises UsageError."""
        return self.options.security.metadata(address, local=_is_local(address))

    async def close(self) -> None:
        """Closes every channel; calls in progress are cancelled. Safe to call twice."""
        self.closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()


def channel_options(address: str, options: ClientOptions) -> list[tuple[str, str | int]]:
    """gRPC's channel arguments. Keepalive has its counterpart in the servers, which allow pings this frequent."""
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.keepalive_time_ms", int(options.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Replicas behind a headless Service are all connected to and used in turn.
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        # When one is gone, gRPC asks for the name anew; by itself it would wait 30 s for that, longer than a deadline.
        ("grpc.dns_min_time_between_resolutions_ms", 2000),
        ("grpc.enable_retries", 0),  # retries are ours, above; two policies would multiply
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.primary_user_agent", f"burnish-python/{__version__}"),
    ]
    if options.security.server_name:
        arguments.append(("grpc.ssl_target_name_override", options.security.server_name))
    if _is_local(address):
        arguments.append(("grpc.enable_http_proxy", 0))  # a proxy of the environment can't reach this machine
    return arguments


def _is_local(address: str) -> bool:
    if address.startswith(UNIX):
        return True
    scheme, _, path = grpc_target(address).partition(":")
    if scheme == "xds":
        return False
    addresses = (path.rpartition("/")[2] if scheme in ("dns", "passthrough") else path).split(",")
    return all(_is_loopback(one.rpartition(":")[0].strip("[]")) for one in addresses)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class Deadline:
    """A moment until which something may take. `renewable`: nobody asked for it, so that it counts from the moment on
    at which the service is there."""

    def __init__(self, seconds: float | None, *, renewable: bool = False) -> None:
        self.seconds = seconds
        self.renewable = renewable
        self._end = None if seconds is None else time.monotonic() + seconds

    def renew(self) -> None:
        """Counts anew from now on."""
        self._end = None if self.seconds is None else time.monotonic() + self.seconds

    def left(self) -> float | None:
        """Seconds left, at least 0; None where there is no end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def allows(self, wait: float) -> bool:
        """True where time is left after `wait` seconds."""
        left = self.left()
        return left is None or wait < left


class ServiceLink:
    """One service as its client classes see it: its address, and calls under the policy of this module."""

    def __init__(self, service: str, endpoints: Endpoints, connections: Connections) -> None:
        self.service = service
        self.options = connections.options
        self.window = Window(self.options.max_in_flight)
        self.absence = Absence(service)
        self._endpoints = endpoints
        self._connections = connections

    @property
    def address(self) -> str:
        """Where the service is. Raises UsageError where none is configured."""
        return self._endpoints.address(self.service)

    def channel(self) -> grpc.aio.Channel:
        """The service's channel, for making a stub."""
        return self._connections.channel(self.address)

    async def call(
        self,
        method: str,
        rpc: Unary[RequestT, ReplyT],
        request: RequestT,
        *,
        timeout: float | None,  # noqa: ASYNC109 - a gRPC deadline, which the server learns
    ) -> ReplyT:
        """One unary call. Raises ServiceError, or UsageError for a bad timeout."""
        return await self._answered(
            method,
            lambda seconds, metadata: rpc(request, timeout=seconds, metadata=metadata, wait_for_ready=False),
            timeout,
        )

    async def send(
        self,
        method: str,
        rpc: Upstream[RequestT, ReplyT],
        requests: Callable[[], AsyncGenerator[RequestT, None]],
        *,
        timeout: float | None,  # noqa: ASYNC109 - a gRPC deadline, which the server learns
    ) -> ReplyT:
        """One call with a stream of requests, which `requests` makes anew for each attempt; what it raises ends the
        call. Raises ServiceError, or UsageError for a bad timeout."""

        async def attempt(seconds: float | None, metadata: Metadata) -> ReplyT:
            call, whole = rpc(timeout=seconds, metadata=metadata, wait_for_ready=False), False
            try:
                async with contextlib.aclosing(requests()) as parts:
                    whole = await _written(call, parts)
                return await call
            except grpc.aio.AioRpcError as error:
                if not whole and error.code() is grpc.StatusCode.INTERNAL and not read_status(error).from_server:
                    raise _broken_off() from error
                raise
            finally:
                call.cancel()

        return await self._answered(method, attempt, timeout)

    async def _answered(
        self,
        method: str,
        attempt: Callable[[float | None, Metadata], Awaitable[ReplyT]],
        timeout: float | None,  # noqa: ASYNC109
    ) -> ReplyT:
        """The reply to a call that is attempted, with the seconds left, under the policy."""
        defaulted = timeout is None and self.options.request_timeout is None
        deadline = Deadline(self._seconds(method, timeout), renewable=defaulted)
        with outgoing(self.service, method, self.address) as call:
            retry = _Retry(self, method, deadline, call)
            while True:
                try:
                    if (failure := await self._connect(deadline)) is None:
                        retry.begin()
                        reply = await attempt(deadline.left(), self._metadata(call))
                        self._connections.answered.add(self.address)
                        self.window.answered()
                        self.absence.over(self.address)
                        return reply
                except grpc.aio.AioRpcError as error:
                    failure = read_status(error)
                except asyncio.CancelledError:
                    self._raise_if_closed(method)
                    raise
                await retry.wait_or_raise(failure)

    async def stream(
        self, method: str, rpc: Stream[RequestT, Item], request: Callable[[], RequestT]
    ) -> AsyncGenerator[Item, None]:
        """A server stream without a deadline, begun anew under the retry policy when it breaks. `request` makes the
        request each time, so that the caller, who knows what came last, says where to go on. Raises ServiceError."""
        with outgoing(self.service, method, self.address) as outgoing_call:
            retry = _Retry(self, method, Deadline(None), outgoing_call)
            while True:
                try:
                    if (failure := await self._connect(Deadline(None))) is None:
                        retry.begin()
                        metadata = self._metadata(outgoing_call)
                        call = rpc(request(), timeout=None, metadata=metadata, wait_for_ready=False)
                        try:
                            async for item in call:
                                self._connections.answered.add(self.address)
                                self.absence.over(self.address)
                                retry = _Retry(self, method, Deadline(None), outgoing_call)
                                yield item
                        finally:
                            call.cancel()
                        return
                except grpc.aio.AioRpcError as error:
                    failure = read_status(error)
                except asyncio.CancelledError:
                    self._raise_if_closed(method)
                    raise
                await retry.wait_or_raise(failure)

    def _metadata(self, call: Outgoing) -> Metadata:
        return (*self._connections.metadata(self.address), *call.metadata())

    def error(self, status: CallStatus, method: str, timeout: float | None, request_id: str = "") -> ServiceError:
        """The error that a failed call of this service becomes."""
        return service_error(
            status,
            service=self.service,
            address=self.address,
            method=method,
            timeout=timeout,
            request_id=request_id,
        )

    def malformed(self, method: str, problem: object) -> MalformedReply:
        """The error for a reply that breaks the contract."""
        return MalformedReply(
            f"{self.service} service at {self.address}: the reply to {method} is malformed: {problem}. This is "
            "a defect in the service, or a release that this client does not fit",
            service=self.service,
            address=self.address,
        )

    @contextlib.contextmanager
    def reading(self, method: str) -> Iterator[None]:
        """Turns a ValueError while a reply is converted into MalformedReply."""
        try:
            yield
        except ValueError as error:
            raise self.malformed(method, error) from error

    def patience(self, status: CallStatus) -> float:
        """Seconds for which this service may be UNAVAILABLE."""
        if status.from_server:
            self._connections.answered.add(self.address)
        known = self.address in self._connections.answered
        return self.options.reconnect_timeout if known else self.options.connect_timeout

    def _seconds(self, method: str, timeout: float | None) -> float:
        if timeout is None:
            timeout = self.options.request_timeout
        if timeout is None:
            return DEFAULT_DEADLINES.get(method, OTHER_DEADLINE)
        if not timeout > 0:
            raise UsageError(f"timeout is {timeout!r}; expected seconds, more than 0, or None for the default")
        return timeout

    async def _connect(self, deadline: Deadline) -> CallStatus | None:
        """Waits until the channel is connected or has failed to, so that the call itself never waits for it: an
        address that swallows packets would use up the whole deadline. Returns what went wrong if neither happened."""
        channel = self.channel()
        left, limit = deadline.left(), self.options.connect_timeout
        seconds = limit if left is None else min(left, limit)
        try:
            async with asyncio.timeout(seconds):
                while (state := channel.get_state(try_to_connect=True)) in _NOT_YET:
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            return CallStatus(grpc.StatusCode.UNAVAILABLE, f"no connection within {seconds:.3g} s")
        return None

    def _raise_if_closed(self, method: str) -> None:
        # Closing the client cancels its calls; that must not look like the cancellation of the caller's own task.
        task = asyncio.current_task()
        if self._connections.closed and task is not None and not task.cancelling():
            raise self.error(CallStatus(grpc.StatusCode.CANCELLED, "the client was closed"), method, None) from None


async def _written(call: grpc.aio.StreamUnaryCall[RequestT, ReplyT], parts: AsyncGenerator[RequestT, None]) -> bool:
    """Sends all parts; False where the call was over before."""
    async for part in parts:
        try:
            await call.write(part)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False  # the call itself has the server's word
    await call.done_writing()
    return True


def _broken_off() -> grpc.aio.AioRpcError:
    """What stands for gRPC's own INTERNAL ("Internal error from Core"). A message that cannot be sent any more, since
    the server has answered or gone away, may put it in the place of the server's status. So the call is sent again."""
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "the call ended while it was being sent")


_MOST_ABSENCES = 5  # of a service during one call, each of which it is waited for as long as for the first
_NOT_YET = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)


class _Retry:
    """How one call waits between its attempts."""

    def __init__(self, link: ServiceLink, method: str, deadline: Deadline, call: Outgoing) -> None:
        self._link = link
        self._method = method
        self._deadline = deadline
        self._call = call
        self._attempt = 0
        self._away_since: float | None = None
        self._absences = 0
        self._begun: float | None = None  # when the last attempt that found a connection was sent

    def begin(self) -> None:
        """Says that an attempt is sent now."""
        self._begun = time.monotonic()

    async def wait_or_raise(self, status: CallStatus) -> None:
        """Returns when the call may be tried again. Raises the ServiceError where it may not, and TooMuchAtOnce where
        parts of it should be."""
        if status.reason in _TOO_MUCH and divisible.get() and self._link.window.limit == 1:
            raise TooMuchAtOnce
        wait = self._next_wait(status)
        happened = {"rpc.grpc.status": status.code.name, "burnish.reason": status.reason}
        self._call.span.event("attempt failed", happened)
        waits_for_service = status.away and self._deadline.renewable
        if not self._may_retry(status, wait) or not (waits_for_service or self._deadline.allows(wait)):
            request_id = self._call.request_id
            raise self._link.error(status, self._method, self._deadline.seconds, request_id) from None
        if status.away:
            self._link.absence.missed(self._link.address, brief(status.text), self._link.patience(status))
        log.info(
            "%s service at %s: %s failed (%s, %s), trying again in %.1f s (request %s)",
            self._link.service,
            self._link.address,
            self._method,
            status.code.name,
            status.text,
            wait,
            self._call.request_id,
        )
        await asyncio.sleep(wait)
        if waits_for_service:
            self._deadline.renew()

    def _next_wait(self, status: CallStatus) -> float:
        options = self._link.options
        backoff = min(options.max_backoff, options.initial_backoff * 2**self._attempt)
        self._attempt += 1
        return max(status.retry_after or 0.0, backoff * random.uniform(0.5, 1.0))

    def _may_retry(self, status: CallStatus, wait: float) -> bool:
        if status.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._link.window.refused()
            return status.retryable
        if status.code is grpc.StatusCode.ABORTED:
            return status.retryable
        if not status.away:
            return False
        now = time.monotonic()
        # An attempt that lasted was worked on: the service was there, and this is another absence. Not for ever: the
        # request may be what ends it.
        lasted = self._begun is not None and now - self._begun > self._link.options.max_backoff
        worked_on = lasted and not status.from_server  # which says itself what is away
        if self._away_since is None or (worked_on and self._absences < _MOST_ABSENCES):
            self._away_since = now
            self._absences += 1
        self._begun = None
        return now + wait - self._away_since < self._link.patience(status)
