"""What a failed run leaves: its last checkpoint, for the next run of the same kind to go on from.

Of one kind are runs whose weights follow from the same (`publish.origin`), made by the same software. What failed for
its data or its settings would fail again and leaves nothing; nor does a self-refining run, whose weights follow from
what it was given at its pauses, too.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from burnish_services.training import checkpoints
from burnish_services.training.publish import FREE, origin
from burnish_services.training.runs import Resolved, Run, RunDirectory
from burnish_services.training.state import RunState, Snapshot

_WOULD_FAIL_AGAIN = ("DATA_LOSS", "INVALID_ARGUMENT")


def may_leave(run: Run, now: Snapshot, keep_seconds: float) -> bool:
    """Whether the run, as it is `now`, may be gone on with by another, for `keep_seconds` from its end."""
    return (
        now.state is RunState.FAILED
        and now.failure is not None
        and now.failure.code not in _WOULD_FAIL_AGAIN
        and run.record.resolved.refinement is None
        and time.time() - (now.end_time or 0.0) < keep_seconds
    )


def is_there(directory: RunDirectory) -> bool:
    """Whether anything is left of a run."""
    return directory.checkpoints.is_dir() or directory.best.is_file()


def told(now: Snapshot, directory: RunDirectory, run_id: str) -> Snapshot:
    """The end of a run that may leave something, which says what; what was half written is removed. Raises OSError."""
    kept = checkpoints.sealed(directory.checkpoints)
    for path in directory.checkpoints.iterdir() if directory.checkpoints.is_dir() else ():
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)
    if kept is None or now.failure is None:
        return now
    words = (
        f"{now.failure.message}. Its last checkpoint, after step {checkpoints.step_of(kept)}, is kept in "
        f"{directory.checkpoints}: a new run with the same base model, data and settings (but for "
        f"{' and '.join(FREE)}) goes on from there. To begin anew, delete that folder, or call CancelRun for {run_id}"
    )
    return replace(now, failure=replace(now.failure, message=words))


def find(run: Run, others: Iterable[Run], keep_seconds: float) -> Run | None:
    """The first of `others` that left what a run that was not begun may go on from; None where there is none.
    Raises OSError."""
    mine = run.record.resolved
    if mine.refinement is not None or run.directory.checkpoints.exists():
        return None
    wanted = _kind(mine)
    return next(
        (
            other
            for other in others
            if may_leave(other, other.snapshot, keep_seconds)
            and checkpoints.sealed(other.directory.checkpoints) is not None
            and _kind(other.record.resolved) == wanted
        ),
        None,
    )


def take(mine: RunDirectory, theirs: RunDirectory) -> None:
    """Moves the checkpoint, once everything that goes with it is there. Killed before that, `find` finds it again.
    Raises OSError."""
    # Links: files of both are only ever replaced whole, and a disk that was full has no room for copies.
    if theirs.weights.is_dir():
        shutil.rmtree(mine.weights, ignore_errors=True)
        shutil.copytree(theirs.weights, mine.weights, copy_function=_link)
    if theirs.best.is_file():
        mine.best.unlink(missing_ok=True)
        _link(theirs.best, mine.best)
    theirs.checkpoints.rename(mine.checkpoints)
    theirs.best.unlink(missing_ok=True)


def _kind(resolved: Resolved) -> dict[str, Any]:
    return {**origin(resolved), "trainer": resolved.trainer, "made_by": resolved.made_by}


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
