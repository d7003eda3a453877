"""Replicas through client-side round robin: what more of them add, and what a change of them costs.

The engine takes a fixed time for a call, as one that is limited by its device does, so that this machine's cores say
little.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.load.servers import NameServer, Serving, free_port, replica
from burnish import AsyncClient, ClientOptions, Endpoints, Message, Role, Sample
from burnish_services.engine.fake import write_fake_model

ENGINE_SECONDS = 0.25
IN_FLIGHT = 8  # requests for each replica
ITEMS = 4  # samples of a request


def _samples(count: int) -> list[Sample]:
    return [
        Sample(f"s{n}", (Message(Role.USER, f"Why is {n} in place {n}?"), Message(Role.ASSISTANT, f"It is {n}.")))
        for n in range(count)
    ]


def _options(replicas: int) -> ClientOptions:
    return ClientOptions(max_in_flight=IN_FLIGHT * replicas, max_batch_items=ITEMS)


async def _score(client: AsyncClient, samples: Sequence[Sample]) -> dict[str, float]:
    """The loss of every sample by id, each answered once and well, or this raises."""
    batch = await client.scoring.score(samples)
    found = {one.sample_id: one.mean_nll for one in batch.scores if one.mean_nll is not None}
    if [one.sample_id for one in batch.scores] != [one.id for one in samples] or len(found) != len(samples):
        raise SystemExit(f"{len(samples)} samples were sent, {len(batch.scores)} answered, {len(found)} of them well")
    return found


async def rates(folder: Path, numbers: Sequence[int], waves: int, turns: int) -> dict[int, list[float]]:
    """Samples per second through so many replicas, turn by turn, each as much work as keeps them busy for `waves`
    calls."""
    model = write_fake_model(folder / "slow", latency_seconds=ENGINE_SECONDS)
    found: dict[int, list[float]] = {number: [] for number in numbers}
    with ExitStack() as stack:
        servers = [replica(folder, f"scaled{n}", model, "127.0.0.1", 0) for n in range(max(numbers))]
        for server in servers:
            stack.callback(server.stop)
        addresses = [server.wait_ready().address for server in servers]
        for turn in range(-1, turns):
            for number in numbers:
                target = "ipv4:" + ",".join(addresses[:number])
                async with AsyncClient(Endpoints(scoring=target), options=_options(number)) as client:
                    await _connected(client, number)
                    samples = _samples(IN_FLIGHT * number * ITEMS * waves)
                    begin = time.perf_counter()
                    await _score(client, samples)
                    if turn >= 0:
                        found[number].append(len(samples) / (time.perf_counter() - begin))
    return found


async def _connected(client: AsyncClient, replicas: int) -> None:
    """Calls until round robin has had time to reach them all."""
    for _ in range(8 * replicas):
        await client.scoring.info()
    await asyncio.sleep(0.5)


@dataclass(frozen=True)
class Changed:
    """A run in which one replica was drained, one killed, one added: how long, against one without changes; in seconds.
    `added_share` is what of the samples the new one answered."""

    undisturbed: float
    disturbed: float
    samples: int
    added_share: float


async def changed(folder: Path, waves: int) -> Changed:
    """Scores through three replicas by name; then again, while the first is drained (SIGTERM), the second killed, and a
    fourth started. Both must find the same of every sample."""
    model = write_fake_model(folder / "slow", latency_seconds=ENGINE_SECONDS)
    port = free_port()
    names = await NameServer().start()
    samples = _samples(IN_FLIGHT * 3 * ITEMS * waves)
    with ExitStack() as stack:
        stack.callback(names.close)

        def start(number: int) -> Serving:
            server = replica(folder, f"changed{number}", model, f"127.0.0.{number + 2}", port, log_level="info")
            stack.callback(server.stop)
            return server

        servers = [start(number) for number in range(3)]
        for server in servers:
            server.wait_ready()
        names.addresses = [server.host for server in servers]
        async with AsyncClient(Endpoints(scoring=names.target(port)), options=_options(3)) as client:
            await _connected(client, 3)
            begin = time.perf_counter()
            expected = await _score(client, samples)
            undisturbed = time.perf_counter() - begin
            begin = time.perf_counter()
            scoring = asyncio.ensure_future(_score(client, samples))
            await asyncio.sleep(undisturbed / 4)
            servers.append(await asyncio.to_thread(lambda: start(3).wait_ready()))
            names.addresses = [server.host for server in servers[1:]]
            await asyncio.to_thread(servers[0].stop, signal.SIGTERM)
            names.addresses = [server.host for server in servers[2:]]
            await asyncio.to_thread(servers[1].stop, signal.SIGKILL)
            found = await scoring
            disturbed = time.perf_counter() - begin
        if found != expected:
            raise SystemExit(f"{sum(found[one] != expected[one] for one in found)} samples were found to be otherwise")
        return Changed(undisturbed, disturbed, len(samples), servers[3].calls * ITEMS / len(samples))
