"""One recipe's runs, one after the other: undisturbed first, then under schedules, each compared with that."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from burnish.coordinator.ledger import Ledger
from burnish_services.engine.fake import write_fake_model
from tests.chaos.children import (
    FIRED,
    ITEMS,
    NUM_COUNTERS,
    Strike,
    Work,
    command,
    services,
)
from tests.chaos.content import content_of, differences, steps_done
from tests.chaos.proxy import Proxy, WireFault
from tests.chaos.schedule import Fault, Schedule, Stretch, merged
from tests.e2e.support import alpaca, write_jsonl

# Addresses of this test process alone, one for each lane, so that nobody else takes a port that is bound again and
# again: others on this machine have 127.0.0.1, and those of `tests/deploy/cluster.py` are below these.
_NETWORK = f"127.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250 + 1}"
_HOSTS = itertools.count(1)
PORT = 20_000  # below those that the system gives away
ROWS = 9
IN_FLIGHT = 2 * 4  # batches on the way, samples in each
GIVE_UP_SECONDS = 60.0
THAW_SECONDS = 0.15
# The fake engine's models are rarely sure of anything.
PROPOSE = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64}
RECIPES: dict[str, dict[str, Any]] = {
    "middo": {},
    "clear": {"eta": 0.55, "candidates": 2, "propose": PROPOSE},
    "mads": {"budget": 4, "calibration_size": 6, "compare_full": False, "random_subsets": 0},
    "bmo": {
        "validation_split": 3,
        "online_share": 0.4,
        "responses": 2,
        "keep": 0.6,
        "compare": False,
        "selection_epochs": 2.0,
        "training": {"per_device_batch_size": 2, "gradient_accumulation_steps": 2},
    },
}


def forking() -> Any:
    """Forks processes from one that has imported everything and runs nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.preload"])
    return context


@dataclass(frozen=True)
class Waypoints:
    """Copies what a run and its services have on disk when a step is done, and notes what it took until then."""

    out: Path
    state: Path
    folder: Path
    counters: Any

    def __call__(self, round_number: int, name: str) -> None:
        number = len(list(self.folder.iterdir()))
        place = self.folder / f"{number:03}"
        place.mkdir()
        note = {"step": [round_number, name], "counters": list(self.counters)[:FIRED]}
        shutil.copytree(self.out, place / "out")
        shutil.copytree(self.state, place / "state")
        (place / "note.json").write_text(json.dumps(note))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a schedule: what is wrong, in words; how many faults struck, and how often the command ran."""

    problems: tuple[str, ...]
    struck: int
    runs: int
    seconds: float


class Lane:
    """Runs of one recipe in `folder`. Close it."""

    def __init__(self, folder: Path, recipe: str, context: Any) -> None:
        self.recipe = recipe
        self._context = context
        self._out, self._state = folder / "out", folder / "state"
        self._log = folder / "log.txt"
        self._points = folder / "points"
        self._points.mkdir(parents=True)
        self._model = write_fake_model(folder / "model", name="base", seed=1, skill=0.3)
        data = write_jsonl(folder / "data.jsonl", alpaca(ROWS, duplicates=1))
        holdout = write_jsonl(folder / "holdout.jsonl", [{**row, "instruction": "Another?"} for row in alpaca(2)])
        self._settings = {
            "data": str(data),
            "holdout": str(holdout),
            "model": str(self._model),
            "rounds": 1,
            "seed": 7,
            **RECIPES[recipe],
        }
        self._counters = context.RawArray("q", NUM_COUNTERS)
        self._address = f"{_NETWORK}.{next(_HOSTS)}"
        self._proxy = Proxy(self._counters, self._address)
        self._services: Any = None
        self._command: Any = None
        self._steps: list[tuple[int, str]] = []
        self._contents: dict[int, dict[str, Any]] = {}
        self.stretches: list[Stretch] = []

    # ---- undisturbed

    def run_undisturbed(self) -> None:
        """The run that the others are compared with."""
        self._state.mkdir()
        self._proxy.arm(PORT)
        self._start_services(())
        self._start_command(None, (), Waypoints(self._out, self._state, self._points, self._counters))
        self._command.join(GIVE_UP_SECONDS)
        if self._command.exitcode != 0:
            raise AssertionError(f"the undisturbed run ended with {self._command.exitcode}:\n{self._log.read_text()}")
        self._stop_services()
        before = [0] * FIRED
        notes = [json.loads((place / "note.json").read_text()) for place in sorted(self._points.iterdir())]
        for number, note in enumerate(notes):
            here = note["counters"]
            calls, items, commits, reports, sent, answered = (
                now - then for now, then in zip(here, before, strict=True)
            )
            name = f"{note['step'][1]} of round {note['step'][0]}"
            self.stretches.append(Stretch(name, commits, calls, items, reports, sent, answered))
            self._steps.append(tuple(note["step"]))
            before = here
            if number < len(notes) - 1:
                there = self._points / f"{number:03}" / "out"
                Ledger.open(there / "ledger.duckdb").close()  # with its log taken in, it opens in no time
                self._contents[number] = content_of(there)
        self._contents[len(notes) - 1] = content_of(self._out)

    # ---- disturbed

    def run(self, schedule: Schedule) -> Outcome:
        """A schedule, from beginning to end."""
        began = time.monotonic()
        stretch = merged(self.stretches[schedule.first : schedule.last + 1])
        self._restore(schedule.first)
        strikes = [
            Strike(index, fault.whom, fault.kind, int(fault.at * stretch.size(fault.whom)), fault.strength)
            for index, fault in enumerate(schedule.faults)
        ]
        self._proxy.arm(
            PORT,
            _on_the_wire(schedule.faults, "requests", stretch),
            _on_the_wire(schedule.faults, "answers", stretch),
        )
        self._serving = [strike for strike in strikes if strike.whom in ("services", "engine", "worker")]
        self._start_services(self._serving)
        problems: list[str] = []
        runs = 0
        try:
            runs = self._run_to_the_end(schedule, [strike for strike in strikes if strike.whom == "coordinator"])
            problems += self._check(schedule, stretch, runs)
        except AssertionError as error:
            problems.append(str(error))
        finally:
            self._kill(self._command)
            problems += self._stop_services()
        struck = sum(self._counters[FIRED : FIRED + len(strikes)]) + len(self._proxy.struck)
        if problems:
            problems.append(f"the log ends:\n{self._log.read_text(errors='replace')[-6000:]}")
        return Outcome(tuple(problems), struck, runs, time.monotonic() - began)

    def _restore(self, first: int) -> None:
        for folder, name in ((self._out, "out"), (self._state, "state")):
            shutil.rmtree(folder, ignore_errors=True)
            if first:
                shutil.copytree(self._points / f"{first - 1:03}" / name, folder)
        self._state.mkdir(exist_ok=True)
        self._log.write_text("")
        for place in range(NUM_COUNTERS):
            self._counters[place] = 0

    def _run_to_the_end(self, schedule: Schedule, strikes: list[Strike]) -> int:
        """Runs the command again and again until the schedule's last step is done; returns how often."""
        last = len(self._steps) - 1
        target = None if schedule.last == last else self._steps[schedule.last]
        endings = sum(fault.may_end_the_command for fault in schedule.faults)
        give_up = time.monotonic() + GIVE_UP_SECONDS
        for runs in range(1, endings + 2):
            self._start_command(target, strikes, None)
            code = self._attend(give_up)
            if code == 0 or (target is not None and target in steps_done(self._out)):
                return runs
            self._free_disk()
        raise AssertionError(f"the command ended with {code} the {runs}th time; its faults allow for {endings} repeats")

    def _attend(self, give_up: float) -> int:
        """Waits for the command's end, and starts the services anew whenever they end."""
        while self._command.exitcode is None:
            wait([self._command.sentinel, self._services.sentinel], 0.05)
            if self._services.exitcode is not None and self._command.exitcode is None:
                self._start_services(self._serving)
            elif _state_of(self._services.pid) == "T":
                time.sleep(THAW_SECONDS)
                os.kill(self._services.pid, signal.SIGCONT)
            if time.monotonic() > give_up:
                raise AssertionError(f"the command did not end within {GIVE_UP_SECONDS:g} s")
        return int(self._command.exitcode)

    def _check(self, schedule: Schedule, stretch: Stretch, runs: int) -> list[str]:
        found = content_of(self._out)
        problems = differences(self._contents[schedule.last], found)
        # Each interruption loses what is on the way, and each beginning loads and checks a model.
        repeated = sum(self._counters[FIRED : FIRED + len(schedule.faults)]) + len(self._proxy.struck)
        per_sample = max(1.0, stretch.engine_items / (ROWS + 1))
        allowed = stretch.engine_items + (repeated + 1) * (IN_FLIGHT * per_sample + 20)
        if self._counters[ITEMS] > allowed:
            problems.append(f"the engine worked {self._counters[ITEMS]} items; undisturbed {stretch.engine_items}")
        return problems

    # ---- processes

    def _start_command(self, target: tuple[int, str] | None, strikes: Sequence[Strike], on_step: Any) -> None:
        address = f"{self._address}:{self._proxy.port}"
        work = Work(address, self.recipe, self._settings, self._out, target, self._log)
        self._command = self._context.Process(target=command, args=(work, self._counters, strikes, on_step))
        self._command.start()

    def _start_services(self, strikes: Sequence[Strike]) -> None:
        left = [strike for strike in strikes if not self._counters[FIRED + strike.index]]
        arguments = ["--engine", "fake", "--model", str(self._model), "--state-dir", str(self._state)]
        arguments += ["--host", self._address, "--port", str(PORT), "--grace", "10"]
        self._services = self._context.Process(target=services, args=(arguments, self._log, self._counters, left))
        self._services.start()

    def _stop_services(self) -> list[str]:
        """Ends the services in order; says what is wrong with their end."""
        for _ in range(3):  # a fault that is still due may strike a server that is starting
            if self._services.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._services.pid, signal.SIGCONT)
                self._services.terminate()
                self._services.join(30)
        problems = [] if self._services.exitcode is not None else ["the services did not end on SIGTERM"]
        self._kill(self._services)
        left = [line for _, line in command_lines() if str(self._state) in line]
        return problems + [f"a process was left: {line}" for line in left]

    def _free_disk(self) -> None:
        """Lets the services write again."""
        if self._services.exitcode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(self._services.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

    def _kill(self, process: Any) -> None:
        if process is not None and process.exitcode is None:
            process.kill()
            process.join(30)

    def close(self) -> None:
        """Ends what is left."""
        self._kill(self._command)
        self._kill(self._services)
        self._proxy.close()


def _on_the_wire(faults: Sequence[Fault], way: str, stretch: Stretch) -> list[WireFault]:
    return [
        WireFault(fault.kind, int(fault.at * stretch.size(way)), 0.05 + 0.25 * fault.strength)
        for fault in faults
        if fault.whom == way
    ]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def command_lines() -> list[tuple[int, str]]:
    """All processes with their command lines."""
    lines = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                lines.append((int(process.name), line.decode(errors="replace")))
    return lines
