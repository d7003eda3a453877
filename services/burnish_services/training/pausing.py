"""Pauses of a self-refining run, on disk: the model to generate responses with, and the responses once they are there.
Imports no torch.

A pause is noted in the checkpoint of its step. So a worker that is started anew knows from the checkpoint that one is
due, from `pools/` whether it is over, and from `paused/` whether the model is written already.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from burnish_services.engine.model_digests import model_digest
from burnish_services.runtime.files import copy_durably, sync_path, sync_tree, write_whole
from burnish_services.training import delivery
from burnish_services.training.job import Job
from burnish_services.training.runs import RunDirectory
from burnish_services.training.state import Pause

SCHEDULE, STALE = "schedule", "stale"


class PausedRun(Exception):
    """The run needs new responses; the worker ends."""

    def __init__(self, pause: Pause) -> None:
        super().__init__(f"paused after step {pause.step}")
        self.pause = pause


def write_pool(directory: RunDirectory, step: int, responses: Path | None, *, last: bool) -> None:
    """Ends the pause after `step`: the run goes on with a copy of these responses, or with none, and never pauses again
    if they are the `last`. Raises OSError."""
    path = directory.pool(step)
    path.parent.mkdir(exist_ok=True)
    if last:
        write_whole(directory.no_more, b"", durable=True)
    if responses is None:
        write_whole(path, b"", durable=True)
    else:
        copy_durably(responses, path)


def newest_pool(directory: RunDirectory, step: int) -> Path | None:
    """The responses that were given last up to `step`; None before the first."""
    steps = [int(path.stem) for path in directory.pool(0).parent.glob("*.jsonl")]
    given = [one for one in steps if one <= step]
    return directory.pool(max(given)) if given else None


def publish_paused(job: Job, step: int, reason: str, share: float | None, write: Callable[[Path], None]) -> Pause:
    """The pause, with the model that `write` puts into a folder, unless an earlier worker did; where the run publishes
    to object storage, others find it below that place. Raises RunError, OSError; Interrupted where the store does not
    answer and the run is asked to stop."""
    directory, output = job.directory, job.record.resolved.place
    place = directory.paused / f"step-{step}"
    if not place.is_dir():
        shutil.rmtree(directory.paused, ignore_errors=True)
        staging = directory.paused / f".step-{step}"
        staging.mkdir(parents=True)
        write(staging)
        sync_tree(staging)
        staging.rename(place)
        sync_path(directory.paused)
    uri = str(place)
    if output is not None:
        directory.note_placed()
        run_id = job.record.run_id
        uri = str(delivery.persistently(output, lambda: delivery.deliver_paused(place, output, run_id, step), job.stop))
    return Pause(step, uri, model_digest(place), reason, share)
