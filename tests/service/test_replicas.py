"""Replicas that stop and come back, as processes with real signals: their clients carry on elsewhere, or wait."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.load.servers import NameServer, Serving, free_port, replica
from burnish import AsyncClient, ClientOptions, Endpoints, Message, Role, Sample
from burnish_services.engine.fake import write_fake_model
from tests.waiting import until

OPTIONS = ClientOptions(initial_backoff=0.05, max_backoff=0.5, max_batch_items=1, max_in_flight=4)
Start = Callable[..., Serving]


def samples(count: int) -> list[Sample]:
    return [Sample(f"s{n}", (Message(Role.USER, "How?"), Message(Role.ASSISTANT, f"So {n}."))) for n in range(count)]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    model = write_fake_model(tmp_path / "model", latency_seconds=0.1)
    servers: list[Serving] = []

    def begin(host: str = "127.0.0.1", port: int = 0) -> Serving:
        servers.append(replica(tmp_path, f"r{len(servers)}", model, host, port, log_level="info"))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop(signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_clients_carry_on_at_the_other_replica(start: Start, number: signal.Signals) -> None:
    leaving, staying = start(), start()
    target = f"ipv4:{leaving.wait_ready().address},{staying.wait_ready().address}"
    async with AsyncClient(Endpoints(scoring=target), options=OPTIONS) as client:
        scoring = asyncio.ensure_future(client.scoring.score(samples(60)))
        await until(lambda: leaving.calls >= 3, 20)
        await asyncio.to_thread(leaving.stop, number)
        batch = await scoring
    assert [one.sample_id for one in batch.scores] == [one.id for one in samples(60)]
    assert all(one.status.ok for one in batch.scores)
    assert leaving.calls + staying.calls >= 60
    if number is signal.SIGTERM:
        assert leaving.process.returncode == 0
        assert leaving.calls + staying.calls == 60, "what ran was finished, and nothing done twice"


async def test_clients_of_a_single_replica_wait_until_it_is_back(start: Start) -> None:
    port = free_port()
    first = start(port=port).wait_ready()
    async with AsyncClient(Endpoints(scoring=f"127.0.0.1:{port}"), options=OPTIONS) as client:
        scoring = asyncio.ensure_future(client.scoring.score(samples(30)))
        await until(lambda: first.calls >= 3, 20)
        await asyncio.to_thread(first.stop, signal.SIGTERM)
        assert not scoring.done()
        second = start(port=port)
        assert all(one.status.ok for one in (await scoring).scores)
    assert first.calls + second.calls == 30


async def test_a_replica_that_comes_back_elsewhere_is_found_by_its_name(start: Start) -> None:
    port, names = free_port(), await NameServer().start()
    try:
        first = start("127.0.0.2", port).wait_ready()
        names.addresses = [first.host]
        async with AsyncClient(Endpoints(scoring=names.target(port)), options=OPTIONS) as client:
            scoring = asyncio.ensure_future(client.scoring.score(samples(30)))
            await until(lambda: first.calls >= 3, 20)
            await asyncio.to_thread(first.stop, signal.SIGKILL)
            second = await asyncio.to_thread(start("127.0.0.3", port).wait_ready)
            names.addresses = [second.host]
            # Within the 30 s of a GetInfo, which is how long gRPC would not ask for the name again by itself.
            assert (await client.scoring.info()).limits.max_items == 512
            assert all(one.status.ok for one in (await scoring).scores)
    finally:
        names.close()
