"""`make chaos ENGINE=vllm` (or transformers): a few faults over a real engine with a tiny model, in minutes.

Every run must end. On transformers the data must be those of the undisturbed run; on vllm sampling depends on what else
is in the batch. Whatever was recorded when the command was killed must still be there unaltered.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from burnish.coordinator.ledger import Ledger
from tests.chaos.commands import Command, some_data
from tests.chaos.lane import command_lines, free_port
from tests.e2e.support import digest_of_final
from tests.tiny_model import write_tiny_model

KINDS = ("services killed", "services terminated", "command killed", "engine core killed")


@dataclass
class Services:
    """The scoring service on a port of its own, which is started anew when it ends."""

    engine: str
    model: Path
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        words = ["--engine", self.engine, "--roles", "scoring", "--model", str(self.model), "--port", str(self.port)]
        words += ["--memory-mib", "256", "--state-dir", str(self.folder / "state"), "--ready-file", str(ready)]
        with (self.folder / "services.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "burnish_services", *words], stdout=log, stderr=log, start_new_session=True
            )
        while not ready.exists():
            assert self.process.poll() is None, (self.folder / "services.log").read_text()[-4000:]
            time.sleep(0.1)

    def engine_core(self) -> int:
        """The process of vLLM that computes; 0 where there is none."""
        assert self.process is not None
        return next((pid for pid, line in command_lines() if "EngineCore" in line and self.owns(pid)), 0)

    def owns(self, pid: int) -> bool:
        """Whether a process is the server's."""
        assert self.process is not None
        try:
            return os.getsid(pid) == os.getsid(self.process.pid)
        except ProcessLookupError:
            return False

    def stop(self) -> None:
        """Ends it and all that it started."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Services:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()


def work(engine: str, folder: Path) -> list[str]:
    """Runs every kind of fault that the engine knows; what is wrong, in words."""
    model = write_tiny_model(folder / "model", dtype="float32", context=1024, head_dim=32)
    data = some_data(folder)
    problems: list[str] = []
    with Services(engine, model, folder) as services:
        with _command(services, data, folder / "undisturbed") as command:
            assert command.ended(900) == 0, command.errors
        expected = digest_of_final(folder / "undisturbed")
        for kind in KINDS:
            if kind == "engine core killed" and not services.engine_core():
                continue
            out = folder / kind.replace(" ", "-")
            began = time.monotonic()
            before = asyncio.run(_strike(kind, services, data, out))
            after = _recorded(out)
            wrong = [f"{kind}: {row} was recorded, and is no more" for row in sorted(before - after)[:3]]
            if engine == "transformers" and digest_of_final(out) != expected:
                wrong.append(f"{kind}: the data are not those of the undisturbed run")
            seconds = time.monotonic() - began
            print(f"{kind}: {'; '.join(wrong) or 'nothing is lost'}, {seconds:.0f} s", flush=True)
            problems += wrong
    return problems


async def _strike(kind: str, services: Services, data: Path, out: Path) -> set[str]:
    """A run under one fault, to its end; what was recorded when the fault struck, where that could be read."""
    assert services.process is not None
    before: set[str] = set()
    with _command(services, data, out) as command:
        while command.done_in("confidence") < 2:
            assert command.process.poll() is None, command.errors
            await asyncio.sleep(0.01)
        if kind == "command killed":
            command.kill()
            before = _recorded(out)
        elif kind == "engine core killed":
            os.kill(services.engine_core(), signal.SIGKILL)
        else:
            number = signal.SIGKILL if kind == "services killed" else signal.SIGTERM
            os.kill(services.process.pid, number)
            services.process.wait(120)
            services.start()
        if kind != "command killed":
            assert command.ended(900) == 0, command.errors
            return before
    with _command(services, data, out) as again:
        assert again.ended(900) == 0, again.errors
    return before


@contextmanager
def _command(services: Services, data: Path, out: Path) -> Iterator[Command]:
    address = f"127.0.0.1:{services.port}"
    words = ["--filter-only", "--answer-max-tokens", "64"]
    command = Command("clear", address, services.model, data, out, *words)
    try:
        yield command
    finally:
        command.kill()


def _recorded(out: Path) -> set[str]:
    with Ledger.open(out / "ledger.duckdb", read_only=True) as ledger:
        return {json.dumps(row, default=str) for row in ledger.select("SELECT * FROM confidence")}
