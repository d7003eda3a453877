"""What the load bench and the soak conclude from what they see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from bench.load.traffic import Measured, closed_loop, open_loop
from bench.soak.watch import Sample, told, trends


@pytest.fixture
async def one_at_a_time() -> AsyncIterator[str]:
    """A server that takes 50 ms for a call and works one at a time."""
    turn = asyncio.Lock()

    async def call(request: bytes, context: Any) -> bytes:
        async with turn:
            await asyncio.sleep(0.05)
        return b""

    server = grpc.aio.server()
    handlers = {"M": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.S", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_an_open_loop_counts_from_when_a_call_was_due(one_at_a_time: str) -> None:
    closed = await closed_loop(one_at_a_time, "/x.S/M", b"", clients=1, seconds=0.5)
    assert 0.05 <= closed.quantile(0.5) < 0.4
    # 40 a second are due and 20 at most answered: the last waits for about as long as the load lasts.
    opened = await open_loop(one_at_a_time, "/x.S/M", b"", clients=4, rate=40, seconds=1.0, deadline=30)
    assert opened.late == 0
    assert opened.quantile(1.0) > 0.4
    late = await open_loop(one_at_a_time, "/x.S/M", b"", clients=4, rate=40, seconds=2.0, deadline=1.0)
    assert late.late > 0
    assert max(late.latencies) < 2.0


def test_quantiles_and_rates() -> None:
    measured = Measured(seconds=2.0, latencies=[0.1 * n for n in range(1, 11)])
    assert (measured.rate, measured.quantile(0.5), measured.quantile(0.99)) == (5.0, pytest.approx(0.6), 1.0)


def looks(memory: list[float]) -> list[Sample]:
    return [Sample(10.0 * n, mib, 20, 8, 3, 0, 1.0, 2) for n, mib in enumerate(memory)]


def test_what_grows_after_the_warm_up_is_told() -> None:
    settled = looks([100 + 10 * n for n in range(10)] + [200 + n % 3 for n in range(30)])
    assert all(one.flat for one in trends(settled, warm=100))
    leaking = looks([100 + 10 * n for n in range(10)] + [200 + n for n in range(30)])
    memory = next(one for one in trends(leaking, warm=100) if one.quantity == "memory")
    assert not memory.flat
    assert memory.growth == pytest.approx(29)
    assert "GROWS" in told([memory])
    peak = looks([200.0] * 20 + [500.0] + [200.0] * 20)
    assert all(one.flat for one in trends(peak, warm=0)), "one reply is no leak"


def test_a_few_seconds_of_soaking() -> None:
    command = [sys.executable, "-m", "bench.soak", "--hours", "0.001", "--interval", "0.5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    growing = [line.split() for line in ended.stdout.splitlines() if line.endswith("GROWS")]
    assert ended.returncode == bool(growing), ended.stderr
    # It is too short to be flat. What a hundred visits leave one of each, or a MiB, grows by far more.
    assert [line for line in growing if float(line[4]) > 3 * float(line[5])] == [], ended.stdout
    assert "unexpected" not in ended.stdout, ended.stdout
    assert "score: done" in ended.stdout
    assert "with exit code 0" in ended.stdout
