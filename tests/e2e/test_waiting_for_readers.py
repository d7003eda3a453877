"""A run whose ledger somebody reads, as a report does: it says so, waits, and can be stopped meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish import AsyncClient
from burnish.coordinator.errors import Interrupted
from burnish.coordinator.ledger import Ledger, lock_holder
from burnish.coordinator.loop import run_recipe_async
from burnish.testing import FakeServices
from tests.e2e.support import Watcher, settings

READ = """
import sys; from pathlib import Path
from burnish.coordinator.ledger import Ledger
with Ledger.open(Path(sys.argv[1]), read_only=True):
    print("reading", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path / "out" / "ledger.duckdb"
    Ledger.open(path).close()
    command = [sys.executable, "-c", READ, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        yield process
        process.communicate("\n")


async def noted(watcher: Watcher) -> str:
    while not watcher.notes:  # noqa: ASYNC110 - an observer has no event for it
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    (note,) = watcher.notes  # once
    return note


def test_a_stop_ends_the_wait_for_who_reads(
    fakes: FakeServices, data: Path, tmp_path: Path, reader: subprocess.Popen[str]
) -> None:
    async def work() -> None:
        stop, watcher = asyncio.Event(), Watcher()
        async with AsyncClient(fakes.endpoints) as own:
            out = tmp_path / "out"
            run = asyncio.create_task(run_recipe_async(settings(data), own, out, observer=watcher, stop=stop))
            assert f"is being read by process {reader.pid}" in await noted(watcher)
            stop.set()
            with pytest.raises(Interrupted, match="Stopped on request"):
                await run

    asyncio.run(work())
    assert lock_holder(tmp_path / "out" / "ledger.duckdb") is None


def test_a_run_that_is_cancelled_does_not_wait_for_who_reads(
    fakes: FakeServices, data: Path, tmp_path: Path, reader: subprocess.Popen[str]
) -> None:
    async def work() -> None:
        watcher = Watcher()
        async with AsyncClient(fakes.endpoints) as own:
            run = asyncio.create_task(run_recipe_async(settings(data), own, tmp_path / "out", observer=watcher))
            await noted(watcher)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run

    asyncio.run(work())
    assert lock_holder(tmp_path / "out" / "ledger.duckdb") is None
    assert reader.poll() is None
