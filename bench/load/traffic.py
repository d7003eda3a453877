"""Makes load of ready-made bytes, so that a client costs as little as it can, and measures what comes back.

Closed loop: each client sends its next call when the last is answered. Open loop: calls are due at moments drawn
beforehand, whatever becomes of the others; how long one took counts from when it was due, so that a server which stalls
cannot hide it (coordinated omission).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each client
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    ("grpc.enable_http_proxy", 0),
]


@dataclass
class Measured:
    """What became of the calls of one measurement. `latencies` in seconds, of those that were answered in time."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    by_client: list[int] = field(default_factory=list)
    refused: int = 0
    late: int = 0

    @property
    def rate(self) -> float:
        """Answered calls per second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the answered calls were answered."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def closed_loop(address: str, method: str, request: bytes, clients: int, seconds: float) -> Measured:
    """`clients` that send one call after the other. Counted are calls that end within `seconds`, which begin once every
    client has had an answer; longer where calls take so long that there would be less than two a client."""
    measured = Measured(by_client=[0] * clients)
    heard: set[int] = set()
    begin, over = math.inf, False
    async with AsyncExitStack() as stack:
        calls = await _connected(stack, address, method, clients)

        async def client(number: int) -> None:
            while not over:
                sent = time.perf_counter()
                try:
                    await calls[number](request)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _REFUSALS:
                        raise
                    measured.refused += sent >= begin
                    await asyncio.sleep(0.01)
                    continue
                heard.add(number)
                if not over and (now := time.perf_counter()) >= begin:
                    measured.latencies.append(now - sent)
                    measured.by_client[number] += 1

        running = [asyncio.ensure_future(client(number)) for number in range(clients)]
        await _until(lambda: len(heard) == clients, _LONGEST * seconds)
        begin = time.perf_counter()
        await asyncio.sleep(seconds)
        await _until(lambda: len(measured.latencies) >= 2 * clients, _LONGEST * seconds)
        over, measured.seconds = True, time.perf_counter() - begin
        await asyncio.gather(*running)
    return measured


# By the server, and by its gRPC for it, which drops what nobody has looked at for a while.
_REFUSALS = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
# How many times as long as it should take something is waited for.
_LONGEST = 10


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end:  # noqa: ASYNC110 - counts have no event
        await asyncio.sleep(0.01)


async def _connected(stack: AsyncExitStack, address: str, method: str, clients: int) -> list[Any]:
    """The method as each client calls it, on a connection of its own."""
    calls = []
    for _ in range(clients):
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
        await channel.channel_ready()
        calls.append(channel.unary_unary(method))
    return calls


async def open_loop(
    address: str, method: str, request: bytes, clients: int, rate: float, seconds: float, deadline: float
) -> Measured:
    """Calls due at a Poisson process of `rate` per second, from `clients` in turn, never sent twice. One that is
    answered later than `deadline` seconds after it was due is late."""
    measured = Measured(seconds, by_client=[0] * clients)
    async with AsyncExitStack() as stack:
        calls = await _connected(stack, address, method, clients)
        begin = time.perf_counter()

        async def one(number: int, due: float) -> None:
            left = due + deadline - time.perf_counter()
            try:
                if left <= 0:
                    raise TimeoutError
                await calls[number](request, timeout=left)
            except TimeoutError:
                measured.late += 1
            except grpc.aio.AioRpcError as error:
                if error.code() in _REFUSALS:
                    measured.refused += 1
                elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    measured.late += 1
                else:
                    raise
            else:
                measured.latencies.append(time.perf_counter() - due)
                measured.by_client[number] += 1

        running: list[asyncio.Task[None]] = []
        for count, due in enumerate(_moments(begin, rate, seconds)):
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            running.append(asyncio.ensure_future(one(count % clients, due)))
        await asyncio.gather(*running)
    return measured


def _moments(begin: float, rate: float, seconds: float) -> Sequence[float]:
    draw = random.Random(1)
    moments = []
    at = begin
    while (at := at + draw.expovariate(rate)) < begin + seconds:
        moments.append(at)
    return moments
