"""How a run tells how far it is: an observer that is called as steps go on, and a status file for other processes.

The ledger is locked while a run goes on, so `burnish status` reads `status.json` beside it (`read_status`).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from burnish.coordinator.atomic import write_json, writing_whole
from burnish.coordinator.errors import CoordinatorError, LedgerError
from burnish.coordinator.ledger import lock_holder
from burnish.coordinator.paths import RunPaths

_RATE_WINDOW = 60.0  # seconds that a rate looks back
_STATUS_EVERY = 1.0  # seconds between two writes of the status file, but for steps that begin or end

TITLES = {
    "read": "Reading the data",
    "split": "Setting trusted samples apart",
    "evaluate": "Measuring held-out loss",
    "train": "Training",
    "score_pre": "Loss before training",
    "score_post": "Loss after training",
    "score_cross": "Loss under a model that did not see it",
    "score_trusted": "Loss of the trusted rows",
    "choose": "Choosing among what was tried",
    "embed": "Finding neighbours",
    "calibrate": "Measuring what is usual for neurons",
    "features": "Reading neurons",
    "select": "Selecting the core set",
    "project": "Placing samples on a plane",
    "hold": "Holding the set's size",
    "judge": "Self-judging quality",
    "confidence": "Confidence",
    "filter": "Filtering",
    "propose": "Proposing responses",
    "compare": "Comparing responses",
    "respond": "Answering questions anew",
    "probe": "Measuring the distance from the base model",
    "weigh": "Fetching what was learnt",
    "decide": "Deciding",
    "refine": "Rewriting",
    "score_rewrites": "Loss of rewrites and originals",
    "judge_rewrites": "Rating rewrites and originals",
    "accept": "Accepting rewrites",
    "assemble": "Assembling the next data set",
}


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a step is. `total` is 0 until known; `reused` items were in the ledger before the step began;
    `seconds` is work time, earlier processes included; `rate` is items per second of late."""

    round: int
    rounds: int
    name: str
    done: int
    total: int
    reused: int
    seconds: float
    rate: float | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """The step's name for people."""
        return TITLES.get(self.name, self.name)  # a newer release may have more

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the step is done; None where nothing can be said."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None


class Observer:
    """Is told what a run does. Every method may be overridden; none of them may take long."""

    def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
        """The run began, or goes on."""

    def step_started(self, step: StepProgress) -> None:
        """A step is under way."""

    def step_advanced(self, step: StepProgress) -> None:
        """A batch was committed."""

    def step_finished(self, step: StepProgress) -> None:
        """A step is done."""

    def noted(self, text: str) -> None:
        """Something that a person should know, one sentence."""

    def run_ended(self, error: BaseException | None) -> None:
        """The run is done (None), or stopped with an error."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._all = tuple(observers)

    def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
        """See Observer."""
        for one in self._all:
            one.run_started(run_id, out_dir, resumed)

    def step_started(self, step: StepProgress) -> None:
        """See Observer."""
        for one in self._all:
            one.step_started(step)

    def step_advanced(self, step: StepProgress) -> None:
        """See Observer."""
        for one in self._all:
            one.step_advanced(step)

    def step_finished(self, step: StepProgress) -> None:
        """See Observer."""
        for one in self._all:
            one.step_finished(step)

    def noted(self, text: str) -> None:
        """See Observer."""
        for one in self._all:
            one.noted(text)

    def run_ended(self, error: BaseException | None) -> None:
        """See Observer."""
        for one in self._all:
            one.run_ended(error)


class RateMeter:
    """Items per second over the last minute of work."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, done: int) -> float | None:
        """Notes how many are done now; returns the rate, None until it can be told."""
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _RATE_WINDOW:
            self._marks.popleft()
        (start, first) = self._marks[0]
        return (done - first) / (now - start) if done > first and now > start else None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How far a run is. `state`: starting (what it needs is made ready), running, done, failed, or interrupted (also:
    killed). `run_id` is empty where a run that starts is not known yet. `pid` and `host` are of the process that worked
    on it last; `updated_at` is a Unix time; `message` is its error."""

    run_id: str
    state: str
    pid: int
    host: str
    updated_at: float
    step: StepProgress | None = None
    notes: tuple[str, ...] = ()
    message: str = ""

    @property
    def at_work(self) -> bool:
        """Whether somebody works on it, as far as can be told from here."""
        return self.state in ("starting", "running")

    @property
    def hearsay(self) -> str:
        """What there is to say of a run that is at work on another host, for whose process nobody can look from here;
        empty for others."""
        if not self.at_work or self.host == socket.gethostname():
            return ""
        ago = max(0.0, time.time() - self.updated_at)
        return f"last heard {ago:.0f} s ago, from {self.host}; cannot be told from here whether it still runs"


@contextmanager
def starting(out_dir: Path) -> Iterator[None]:
    """Says in `status.json` that a run starts in `out_dir`, from before its ledger is locked, since its services may
    take minutes; the run's first status takes the place. Where it comes to none, what was there is put back."""
    paths = RunPaths.find(out_dir)
    new, before = not paths.out.exists(), _bytes_of(paths.status)
    own = RunStatus(str(paths.written.get("run_id", "")), "starting", os.getpid(), socket.gethostname(), time.time())
    _write(paths.status, own)
    try:
        yield
    finally:
        if _status_in(paths.status) == own:
            _put_back(paths.status, before)
            if new:
                with suppress(OSError):  # not empty
                    paths.out.rmdir()


@dataclass(slots=True)
class StatusFile(Observer):
    """Keeps `status.json` up to date, whole at any moment."""

    path: Path
    _run_id: str = field(init=False, default="")
    _step: StepProgress | None = field(init=False, default=None)
    _notes: list[str] = field(init=False, default_factory=list)
    _written: float = field(init=False, default=0.0)

    def run_started(self, run_id: str, out_dir: Path, resumed: bool) -> None:
        """See Observer."""
        self._run_id = run_id
        self._write("running")

    def step_started(self, step: StepProgress) -> None:
        """See Observer."""
        self._step = step
        self._write("running")

    def step_advanced(self, step: StepProgress) -> None:
        """See Observer."""
        self._step = step
        if time.monotonic() - self._written >= _STATUS_EVERY:
            self._write("running")

    def step_finished(self, step: StepProgress) -> None:
        """See Observer."""
        self._step = step
        self._write("running")

    def noted(self, text: str) -> None:
        """See Observer."""
        self._notes.append(text)

    def run_ended(self, error: BaseException | None) -> None:
        """See Observer."""
        interrupted = isinstance(error, CoordinatorError) and error.exit_code == 130
        resumable = interrupted or not isinstance(error, Exception)
        state = "done" if error is None else "interrupted" if resumable else "failed"
        self._write(state, str(error) if error else "")

    def _write(self, state: str, message: str = "") -> None:
        self._written = time.monotonic()
        status = RunStatus(
            self._run_id, state, os.getpid(), socket.gethostname(), time.time(), self._step, tuple(self._notes), message
        )
        _write(self.path, status)


def read_status(out_dir: Path) -> RunStatus | None:
    """How far the run in `out_dir` is, also while it goes on; None where no run was begun there. What was written on
    another host is taken as it is."""
    paths = RunPaths.find(out_dir)
    status = _status_in(paths.status)
    if status is None or not status.at_work or status.host != socket.gethostname():
        return status
    if status.state == "starting" and _is_alive(status.pid):
        return status
    holder = lock_holder(paths.ledger)
    # Of a ledger that runs share, somebody else may be at work on another one.
    if holder is not None and (paths.shared_ledger is None or holder in (0, status.pid)):
        return replace(status, state="running", pid=holder or status.pid)
    killed = f"process {status.pid} was killed; run the same command again, it goes on from there"
    return replace(status, state="interrupted", message=killed)


def _status_in(path: Path) -> RunStatus | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a machine that went down may leave an empty file
        return None
    step = values.pop("step")
    values["notes"] = tuple(values["notes"])
    return RunStatus(**values, step=StepProgress(**step) if step else None)


def _write(path: Path, status: RunStatus) -> None:
    with suppress(OSError, LedgerError):  # the ledger will say that the disk is full; a status is not worth a run
        write_json(path, asdict(status), durable=False)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _put_back(path: Path, content: bytes | None) -> None:
    with suppress(OSError, LedgerError):
        if content is None:
            path.unlink()
            return
        with writing_whole(path, durable=False) as stream:
            stream.write(content)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
