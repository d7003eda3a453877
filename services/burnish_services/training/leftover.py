"""What a failed run leaves: its last checkpoint, for the next run that is asked for the same to go on from.

Which runs are the same says `publish.origin`: base model, data, hyperparameters, all that determines the weights. What
failed for its data or its settings would fail again and leaves nothing; nor does a self-refining run, whose weights
follow from what it was given at its pauses, too.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace

from burnish_services.training import checkpoints
from burnish_services.training.publish import origin
from burnish_services.training.runs import Run, RunDirectory
from burnish_services.training.state import RunState, Snapshot

log = logging.getLogger(__name__)

# What may not be there the next time: room, memory, a machine, a driver's mood. The others are the data's or the
# settings' fault.
_MAY_PASS = ("RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED", "UNAVAILABLE")


def may_leave(run: Run, now: Snapshot, keep_seconds: float) -> bool:
    """Whether the run, as it is `now`, may be gone on with by another, for `keep_seconds` from its end."""
    return (
        now.state is RunState.FAILED
        and now.failure is not None
        and now.failure.code in _MAY_PASS
        and run.record.resolved.refinement is None
        and time.time() - (now.end_time or 0.0) < keep_seconds
    )


def told(now: Snapshot, directory: RunDirectory, run_id: str) -> Snapshot:
    """The end of a run that may leave something, which says what; what was half written is removed. Raises OSError."""
    kept = checkpoints.newest(directory.checkpoints)
    if kept is None or now.failure is None:
        return now
    words = (
        f"{now.failure.message}. Its last checkpoint, after step {checkpoints.step_of(kept)}, is kept: the next run "
        f"with the same base model, data and settings goes on from there; CancelRun of {run_id} removes it"
    )
    return replace(now, failure=replace(now.failure, message=words))


def take_over(run: Run, others: Iterable[Run], keep_seconds: float) -> Snapshot | None:
    """Has a run that was not begun go on from what another of `others` left; the snapshot of that one, None where there
    is none. Killed in between, the same call finishes. Raises OSError."""
    mine, wanted = run.directory, origin(run.record.resolved)
    if run.record.resolved.refinement is not None or mine.checkpoints.exists():
        return None
    for other in others:
        theirs = other.directory
        if (
            theirs.checkpoints.is_dir()
            and may_leave(other, other.snapshot, keep_seconds)
            and other.record.resolved.trainer == run.record.resolved.trainer
            and origin(other.record.resolved) == wanted
        ):
            if theirs.weights.is_dir():
                shutil.copytree(theirs.weights, mine.weights, dirs_exist_ok=True)
            if theirs.best.is_file():
                theirs.best.rename(mine.best)
            theirs.checkpoints.rename(mine.checkpoints)
            log.info("run %s goes on from what run %s left", run.record.run_id, other.record.run_id)
            return other.snapshot
    return None
