"""Where a run is in its life, and how it gets from one state to the next. Pure.

A `Snapshot` is everything about a run that changes; each event holds one. The transitions below are the only way in
which the server makes a new one, so what may follow what can be read here.

    PENDING ──▶ RUNNING ──▶ SUCCEEDED | FAILED | CANCELLED
       ▲ └─────────│──────▶ CANCELLED
       ├───────────┤  the worker or the server ended before the run did
       └─ PAUSED ◀─┘  it waits for new responses, and goes on once it has them (or is cancelled)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path


class RunState(StrEnum):
    """See training.proto's State."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True where nothing more will happen."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; losses in nats per response token, memory in bytes."""

    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eval_loss: float | None = None
    seconds_left: float | None = None
    memory_bytes: int = 0
    device_memory_bytes: int = 0
    num_tokens: int = 0  # of all steps so far, padding not counted
    chat_template_digest: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made; the wall time is in the snapshot."""

    model_uri: str
    model_digest: str
    train_loss: float
    eval_loss: float | None
    num_samples: int
    skipped: tuple[str, ...]
    data_digest: str
    num_tokens: int
    published_step: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """A run that waits for new responses after `step` optimiser steps: the model to generate them with, and why:
    `schedule`, or `stale` where too little of the pool still counted. `effective_share` is how much of it did, in
    [0, 1]; None where that is not known."""

    step: int
    model_uri: str
    model_digest: str
    reason: str
    effective_share: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed. `code` is the name of a google.rpc code, `reason` a stable word for machines."""

    code: str
    reason: str
    message: str


def disk_full(error: BaseException, place: Path) -> Failure:
    """How it is told that a run's files, below `place`, found no room."""
    return Failure(
        "RESOURCE_EXHAUSTED",
        "DISK_FULL",
        f"the disk is full: {error}. Make room below {place} (a checkpoint takes about 12 bytes for each parameter of "
        "the model, 16 while it is replaced) and create the run again",
    )


class RunError(Exception):
    """A run can't be created or can't succeed, and trying again unchanged would fail again."""

    def __init__(self, code: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(code, reason, message)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run at one moment; times are seconds since the epoch."""

    state: RunState = RunState.PENDING
    progress: Progress = field(default_factory=Progress)
    result: Result | None = None
    failure: Failure | None = None
    start_time: float | None = None  # when it last began or resumed work
    end_time: float | None = None
    work_seconds: float = 0.0  # spent in attempts that are over
    attempts: int = 0
    # Attempts that ended in a crash of the worker, or of the whole server, since a checkpoint was last written.
    crashes: int = 0
    server_crashes: int = 0
    pause: Pause | None = None  # the last one
    # Attempts since then for which the machines of the run did not find together, and what it waits for to try again.
    unmet: int = 0
    waiting_for: str = ""


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How often a run is begun anew without having written a checkpoint in between; then it fails."""

    worker_crashes: int = 3
    # A server is killed from outside more often than by its run; but where memory runs out in a container, both die.
    server_crashes: int = 20
    # Machines that are all there but do not find together: an address, port or policy that is wrong, most likely.
    unmet: int = 10


def begun(now: Snapshot, at: float) -> Snapshot:
    """PENDING to RUNNING: a worker process is started."""
    return replace(now, state=RunState.RUNNING, start_time=at, attempts=now.attempts + 1, waiting_for="")


def waiting(now: Snapshot, what: str) -> Snapshot:
    """PENDING, with what it waits for besides its turn, in words."""
    return replace(now, waiting_for=what)


def met(now: Snapshot) -> Snapshot:
    """RUNNING, and all machines that it needs are there."""
    return replace(now, unmet=0)


def progressed(now: Snapshot, progress: Progress) -> Snapshot:
    """A step was done, or something measured; a loss once measured stands until it is measured again."""
    eval_loss = now.progress.eval_loss if progress.eval_loss is None else progress.eval_loss
    return replace(now, progress=replace(progress, eval_loss=eval_loss))


def checkpointed(now: Snapshot) -> Snapshot:
    """What was done so far is safe; crashes before it no longer count."""
    return replace(now, crashes=0, server_crashes=0)


def interrupted(now: Snapshot, at: float) -> Snapshot:
    """RUNNING to PENDING: the server stops and will take the run up again."""
    return replace(_rested(now, at), state=RunState.PENDING)


def paused(now: Snapshot, at: float, pause: Pause) -> Snapshot:
    """RUNNING to PAUSED: the run needs new responses."""
    return replace(_rested(now, at), state=RunState.PAUSED, pause=pause)


def resumed(now: Snapshot) -> Snapshot:
    """PAUSED to PENDING: it has what it needs. To go on from a pause is no new attempt."""
    return replace(now, state=RunState.PENDING, attempts=now.attempts - 1)


def crashed(now: Snapshot, at: float, failure: Failure, limits: RestartLimits) -> Snapshot:
    """RUNNING to PENDING after the worker died, or to FAILED with `failure` where that happened too often."""
    counted = replace(now, crashes=now.crashes + 1)
    if counted.crashes > limits.worker_crashes:
        return failed(counted, at, failure)
    return interrupted(counted, at)


def deserted(now: Snapshot, at: float, failure: Failure, limits: RestartLimits) -> Snapshot:
    """RUNNING to PENDING after another machine was gone, which is counted as the end of a server is; or to FAILED."""
    counted = replace(now, server_crashes=now.server_crashes + 1)
    return failed(counted, at, failure) if counted.server_crashes > limits.server_crashes else interrupted(counted, at)


def unmet(now: Snapshot, at: float, failure: Failure, limits: RestartLimits) -> Snapshot:
    """RUNNING to PENDING where the machines did not find together, which is no attempt at the run; or to FAILED."""
    counted = replace(now, unmet=now.unmet + 1, attempts=now.attempts - 1)
    return failed(counted, at, failure) if counted.unmet > limits.unmet else interrupted(counted, at)


def orphaned(now: Snapshot, last_seen: float, limits: RestartLimits) -> Snapshot:
    """What a server that starts makes of a run that an earlier one left RUNNING, heard of at `last_seen`."""
    counted = replace(now, server_crashes=now.server_crashes + 1)
    if counted.server_crashes > limits.server_crashes:
        message = (
            f"the server ended {counted.server_crashes} times while it worked this run and no checkpoint was written "
            "in between; if memory runs out, use a smaller per_device_batch_size or gradient_checkpointing, else a "
            "smaller checkpoint_steps"
        )
        return failed(counted, last_seen, Failure("ABORTED", "SERVER_CRASHED", message))
    return interrupted(counted, last_seen)


def succeeded(now: Snapshot, at: float, result: Result) -> Snapshot:
    """To SUCCEEDED."""
    progress = replace(now.progress, seconds_left=0.0)
    if result.eval_loss is not None:
        progress = replace(progress, eval_loss=result.eval_loss)
    return replace(_rested(now, at), state=RunState.SUCCEEDED, end_time=at, result=result, progress=progress)


def succeeding(now: Snapshot, other: Snapshot) -> Snapshot:
    """PENDING still, and to go on from where `other` failed: how far that came, and what it took, are this one's."""
    return replace(now, work_seconds=other.work_seconds, progress=replace(other.progress, eval_loss=None))


def failed(now: Snapshot, at: float, failure: Failure) -> Snapshot:
    """To FAILED."""
    return replace(_rested(now, at), state=RunState.FAILED, end_time=at, failure=failure)


def cancelled(now: Snapshot, at: float) -> Snapshot:
    """PENDING, RUNNING or PAUSED to CANCELLED."""
    return replace(_rested(now, at), state=RunState.CANCELLED, end_time=at, waiting_for="")


def given_up(now: Snapshot, at: float, failure: Failure) -> Snapshot:
    """PAUSED to CANCELLED by the server itself, which says why."""
    return replace(cancelled(now, at), failure=failure)


def _rested(now: Snapshot, at: float) -> Snapshot:
    if now.state is not RunState.RUNNING or now.start_time is None:
        return now
    return replace(now, work_seconds=now.work_seconds + max(0.0, at - now.start_time))
