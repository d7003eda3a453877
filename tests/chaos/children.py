"""The two processes that faults strike, as they are forked for a schedule: the command's work, and the services.

Both run what the product runs. Faults are put where a process meets its surroundings: at the commits of the ledger, at
the calls of the engine, at the reports of a training worker.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Places in the counters that processes share; from FIRED on, a flag for each fault that has struck.
CALLS, ITEMS, COMMITS, REPORTS, SENT, ANSWERED, FIRED = range(7)
NUM_COUNTERS = FIRED + 16
Counters = Any  # multiprocessing.RawArray


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault of a schedule, the `index`th, with the number of commits, calls or reports after which it is due."""

    index: int
    whom: str
    kind: str
    number: int
    strength: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a process of the command does: a recipe in `out`, until step `target` (round, name) is done."""

    address: str
    recipe: str
    settings: dict[str, Any]
    out: Path
    target: tuple[int, str] | None = None
    log: Path = Path(os.devnull)


class FarEnough(BaseException):
    """The step to which a schedule goes is done. No Exception, which would count as the failure of a step around it."""


def command(
    work: Work, counters: Counters, strikes: Sequence[Strike] = (), on_step: Callable[[int, str], None] | None = None
) -> None:
    """The command's work. Ends the process with the exit code that the command would have."""
    _end_with_parent(work.log)
    from burnish import AsyncClient, BurnishError, ClientOptions
    from burnish.coordinator.loop import RunOptions, run_recipe_async
    from burnish.coordinator.progress import Observer, StepProgress
    from burnish.coordinator.recipes.registry import settings_of
    from burnish.coordinator.session import stopping_on_signals

    class Told(Observer):
        def step_started(self, step: StepProgress) -> None:
            say(f"step {step.round} {step.name}")

        def step_finished(self, step: StepProgress) -> None:
            if on_step is not None:
                on_step(step.round, step.name)
            if (step.round, step.name) == work.target:
                raise FarEnough

        def noted(self, text: str) -> None:
            say(text)

    async def run() -> None:
        options = ClientOptions(initial_backoff=0.02, max_backoff=0.2, connect_timeout=20.0)
        async with AsyncClient(work.address, options=options) as client:
            with stopping_on_signals(None) as stop:
                await run_recipe_async(
                    settings_of(work.recipe)(**work.settings),
                    client,
                    work.out,
                    options=RunOptions(batch_size=4, max_in_flight=2, retries=2),
                    observer=Told(),
                    stop=stop,
                )

    _at_commits(work.out / "ledger.duckdb", counters, strikes)
    try:
        asyncio.run(run())
    except FarEnough:
        sys.exit(0)
    except BurnishError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)


def services(arguments: Sequence[str], log: Path, counters: Counters, strikes: Sequence[Strike]) -> None:
    """`python -m burnish_services`, with faults at calls of its engine and at reports of its workers."""
    _end_with_parent(log)
    from burnish_services.__main__ import main

    _at_engine_calls(counters, [strike for strike in strikes if strike.whom != "worker"])
    _at_reports(counters, [strike for strike in strikes if strike.whom == "worker"])
    sys.exit(main(list(arguments)))


def say(text: str) -> None:
    """A line in the log of this process."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _end_with_parent(log: Path) -> None:
    """Ends with the process that forks, which ends with the tests; writes what is said to a file."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)


def _due(strikes: Sequence[Strike], counters: Counters, count: int) -> Strike | None:
    """The first fault that is due at this count and has not struck yet; it counts as having struck from now on."""
    for strike in strikes:
        if counters[count] >= strike.number and not counters[FIRED + strike.index]:
            counters[FIRED + strike.index] = 1
            return strike
    return None


def _at_commits(ledger: Path, counters: Counters, strikes: Sequence[Strike]) -> None:
    from burnish.coordinator.ledger import Ledger

    original = Ledger.transaction

    @contextmanager
    def transaction(self: Ledger) -> Iterator[None]:
        due = _due(strikes, counters, COMMITS)
        kind = "" if due is None else due.kind
        if due is not None and kind == "disk full":
            _fill_disk(ledger.with_name(ledger.name + ".wal"), due.strength)
        with original(self):
            yield
            counters[COMMITS] += 1
            if kind == "killed before a commit":
                os.kill(os.getpid(), signal.SIGKILL)
        if kind == "killed after a commit":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)

    Ledger.transaction = transaction  # type: ignore[method-assign]


def _fill_disk(file: Path, strength: float) -> None:
    """No file may grow beyond what `file` has now, and a little: what is left of a full disk."""
    there = file.stat().st_size if file.exists() else 0
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (there + round(2000 * strength), hard))


def _at_engine_calls(counters: Counters, strikes: Sequence[Strike]) -> None:
    from burnish_services.engine.base import EngineDead, EngineFailure
    from burnish_services.engine.fake.engine import FakeEngine
    from burnish_services.engine.restarts import Restarts

    def struck(name: str) -> Callable[..., Any]:
        original = getattr(FakeEngine, name)

        async def call(self: FakeEngine, requests: Sequence[Any]) -> list[Any]:
            strike = _due(strikes, counters, CALLS)
            counters[CALLS] += 1
            counters[ITEMS] += len(requests)
            match (strike.whom, strike.kind) if strike is not None else None:
                case ("services", "killed"):
                    os.kill(os.getpid(), signal.SIGKILL)
                case ("services", "terminated"):
                    os.kill(os.getpid(), signal.SIGTERM)
                case ("services", "frozen"):
                    os.kill(os.getpid(), signal.SIGSTOP)
                case ("services", "disk full"):
                    _fill_disk(Path(os.devnull), strike.strength)
                case ("engine", "lost"):
                    self._dead = True
                    raise EngineDead("made up: the engine's process ended")
                case ("engine", "gone for good"):
                    self._dead = True
                    Restarts.take = lambda _: False  # type: ignore[method-assign]
                    raise EngineDead("made up: the engine's process ended")
            results = await original(self, requests)
            if strike is not None and strike.kind == "fails items":
                last = max(1, round(len(results) * strike.strength))
                made_up = EngineFailure("ENGINE_ERROR", "made up: not now", retryable=True)
                results = [made_up] * last + list(results[last:])
            return results

        return call

    for name in ("score", "rank", "generate", "embed"):
        setattr(FakeEngine, name, struck(name))


def _at_reports(counters: Counters, strikes: Sequence[Strike]) -> None:
    from burnish_services.training.process import WorkerProcess

    original = WorkerProcess.messages

    async def messages(self: WorkerProcess) -> AsyncIterator[Any]:
        async for message in original(self):
            if _due(strikes, counters, REPORTS) is not None:
                os.kill(self.pid, signal.SIGKILL)
            counters[REPORTS] += 1
            yield message

    WorkerProcess.messages = messages  # type: ignore[method-assign]
