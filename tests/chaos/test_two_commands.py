"""Two commands on one run: one works, the other is told who does, and nothing is mixed up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.chaos.commands import Command, some_data
from tests.e2e.support import digest_of_final
from tests.waiting import until

Start = Callable[[str], Command]


@dataclass(frozen=True)
class Services:
    address: str
    model: Path
    pid: int


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    model = write_fake_model(folder / "model", name="base", seed=1, skill=0.3, latency_seconds=0.1)
    with LocalServices(engine="fake", model=model, state_dir=folder / "state") as local:
        yield Services(local.endpoints.scoring, model, local.pids[0])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def start(services: Services, data: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Command] = []

    def begin(out: str) -> Command:
        started.append(Command("clear", services.address, services.model, data, tmp_path / out, "--filter-only"))
        return started[-1]

    yield begin
    for command in started:
        command.kill()


async def test_the_second_is_told_who_works_and_the_first_is_not_disturbed(start: Start, tmp_path: Path) -> None:
    alone = start("alone")
    assert alone.ended() == 0, alone.errors
    first = start("out")
    await until(lambda: first.step() == "confidence", 60)
    first.process.send_signal(signal.SIGSTOP)  # it is at work for as long as it takes the second to come
    second = start("out")
    assert second.ended() == 1
    assert f"is being written by process {first.process.pid}" in second.errors
    assert f"`burnish status {tmp_path}/out` shows how far it is" in second.errors
    assert "Traceback" not in second.errors
    words = [sys.executable, "-m", "burnish", "status", str(tmp_path / "out")]
    status = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True)
    assert "Confidence" in status.stdout
    first.process.send_signal(signal.SIGCONT)
    assert first.ended() == 0, first.errors
    assert digest_of_final(tmp_path / "out") == digest_of_final(tmp_path / "alone")


async def test_of_two_that_begin_together_one_works(start: Start, services: Services, tmp_path: Path) -> None:
    os.kill(services.pid, signal.SIGSTOP)  # so that neither is through before the other begins
    try:
        both = [start("out"), start("out")]
        await until(lambda: any(command.process.poll() is not None for command in both), 60)
    finally:
        os.kill(services.pid, signal.SIGCONT)
    codes = [command.ended() for command in both]
    assert sorted(codes) == [0, 1]
    (refused,) = [command for command, code in zip(both, codes, strict=True) if code]
    assert "is being written by" in refused.errors
    assert (tmp_path / "out/final").is_dir()


async def test_a_lock_whose_holder_was_killed_holds_nobody_up(start: Start, tmp_path: Path) -> None:
    first = start("out")
    await until(lambda: first.step() == "confidence", 60)
    first.process.send_signal(signal.SIGKILL)
    assert first.ended() == -signal.SIGKILL
    assert (tmp_path / "out/ledger.duckdb.lock").read_text() == str(first.process.pid)
    again = start("out")
    assert again.ended() == 0, again.errors
