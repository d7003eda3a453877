"""A command's work in a process of its own, forked from one that has imported everything: followed step by step, killed
by itself or by the test, interrupted, short of disk."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from burnish import BurnishError, Client, Endpoints
from burnish.coordinator.book import RunBook
from burnish.coordinator.loop import RunOptions, run_recipe
from burnish.coordinator.progress import Observer, StepProgress
from burnish.coordinator.recipes.registry import settings_of
from tests.chaos.lane import forking

_SECONDS = 120.0  # that a run may take


class Gone(BaseException):
    """A run is over as if it had been killed. No Exception, which would count as the failure of a step around it."""


def gone_at_ends(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, str]]:
    """Has runs of this process end by `Gone`, once in each step (round, name): when all is in the ledger that the step
    makes, and not yet that it is done. Returns the steps in which one has."""
    struck: set[tuple[int, str]] = set()
    end_step = RunBook.end_step

    def gone(self: RunBook, round_number: int, name: str, state: str, seconds: float) -> None:
        if (round_number, name) not in struck:
            struck.add((round_number, name))
            raise Gone
        end_step(self, round_number, name, state, seconds)

    monkeypatch.setattr(RunBook, "end_step", gone)
    return struck


@dataclass(frozen=True)
class Work:
    """What the process does. It kills itself once step `killed_after` (name, round) is done, or, `begun`, as soon as it
    has made some of it. `file_bytes`: most that a file of it may have; 0 for any number."""

    address: str
    recipe: str
    settings: dict[str, Any]
    out: Path
    options: RunOptions = field(default_factory=RunOptions)
    killed_after: tuple[str, int] = ("", 0)
    begun: bool = False
    file_bytes: int = 0


class Child:
    """The process, at work."""

    def __init__(self, work: Work) -> None:
        context = forking()
        self._said, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(work, theirs))
        self._process.start()
        theirs.close()
        self.lines: list[str] = []  # "started", then a line for each step as it begins, `1 judge`; last why it failed
        self.until("started")

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return bool(self._process.is_alive())

    def until(self, line: str) -> None:
        """Waits for a line."""
        while line not in self.lines:
            assert self._read(), f"it ended before {line!r}: {self.lines}"

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self._process.pid, number)

    def end(self) -> int:
        """Waits for its end and returns the exit code; negative: the signal that ended it."""
        while self._read():
            pass
        self._process.join(_SECONDS)
        assert self._process.exitcode is not None
        return int(self._process.exitcode)

    def _read(self) -> bool:
        """One more line; False where there is none."""
        try:
            assert self._said.poll(_SECONDS), f"nothing for {_SECONDS:.0f} s after {self.lines}"
            self.lines.append(self._said.recv())
        except EOFError:
            return False
        return True


def run_in_child(work: Work) -> int:
    """Runs it to its end; see `Child.end`."""
    return Child(work).end()


def _work(work: Work, said: Connection) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with the tests

    class Told(Observer):
        def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
            said.send("started")

        def step_started(self, step: StepProgress) -> None:
            said.send(f"{step.round} {step.name}")

        def step_advanced(self, step: StepProgress) -> None:
            if work.begun and step.done:
                self._kill_after(step)

        def step_finished(self, step: StepProgress) -> None:
            self._kill_after(step)

        def _kill_after(self, step: StepProgress) -> None:
            if (step.name, step.round) == work.killed_after:
                os.kill(os.getpid(), signal.SIGKILL)

    if work.file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (work.file_bytes, work.file_bytes))
    settings = settings_of(work.recipe).parse(work.settings)
    try:
        with Client(Endpoints.at(work.address)) as client:
            run_recipe(settings, client, work.out, options=work.options, observer=Told())
    except BurnishError as error:
        said.send(str(error))
        raise SystemExit(error.exit_code) from None
