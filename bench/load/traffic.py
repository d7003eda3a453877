"""Makes load of ready-made bytes, so that a client costs as little as it can, and measures what comes back.

Closed loop: each client sends its next call when the last is answered. Open loop: calls are due at moments drawn
beforehand, whatever becomes of the others; how long one took counts from when it was due, so that a server which stalls
cannot hide it (coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

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


async def closed_loop(
    address: str, method: str, request: bytes, clients: int, seconds: float, warm: float = 0.5
) -> Measured:
    """`clients` that send one call after the other; what comes within the first `warm` seconds does not count."""
    measured = Measured(seconds, by_client=[0] * clients)
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(clients):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            await channel.channel_ready()
            calls.append(channel.unary_unary(method))
        begin = time.perf_counter() + warm

        async def client(number: int) -> None:
            while (sent := time.perf_counter()) < begin + seconds:
                try:
                    await calls[number](request)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    measured.refused += 1
                    await asyncio.sleep(0.01)
                    continue
                now = time.perf_counter()
                if begin <= now < begin + seconds:
                    measured.latencies.append(now - sent)
                    measured.by_client[number] += 1

        await asyncio.gather(*(client(number) for number in range(clients)))
    return measured


async def open_loop(
    address: str, method: str, request: bytes, clients: int, rate: float, seconds: float, deadline: float
) -> Measured:
    """Calls due at a Poisson process of `rate` per second, from `clients` in turn, never sent twice. One that is
    answered later than `deadline` seconds after it was due is late."""
    measured = Measured(seconds, by_client=[0] * clients)
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(clients):
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=_OPTIONS))
            await channel.channel_ready()
            calls.append(channel.unary_unary(method))
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
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
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
