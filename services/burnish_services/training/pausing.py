"""Pauses of a self-refining run, on disk: the model to generate responses with, and the responses once they are there.
Imports no torch.

A pause is noted in the checkpoint of its step. So a worker that is started anew knows from the checkpoint that one is
due, from `pools/` whether it is over, and from `paused/` whether the model is written already.

Beside the responses lies their digest, by which somebody who gives them once more is known, also when the run has ended
and they are gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from burnish_services.engine.model_digests import model_digest
from burnish_services.runtime.files import copy_durably, sync_path, sync_tree, write_whole
from burnish_services.training import delivery
from burnish_services.training.data import file_digest
from burnish_services.training.job import Job
from burnish_services.training.runs import RunDirectory
from burnish_services.training.state import Pause

SCHEDULE, STALE = "schedule", "stale"


class PausedRun(Exception):
    """The run needs new responses; the worker ends."""

    def __init__(self, pause: Pause) -> None:
        super().__init__(f"paused after step {pause.step}")
        self.pause = pause


def write_pool(directory: RunDirectory, step: int, responses: Path | None, digest: str, *, last: bool) -> None:
    """Ends the pause after `step`: the run goes on with a copy of these responses, which have this `digest`, or with
    none, and never pauses again if they are the `last`. Raises OSError."""
    path = directory.pool(step)
    path.parent.mkdir(exist_ok=True)
    # Before the responses: these end the pause.
    write_whole(directory.pool_digest(step), digest.encode(), durable=True)
    if last:
        write_whole(directory.no_more, b"", durable=True)
    if responses is None:
        write_whole(path, b"", durable=True)
    else:
        copy_durably(responses, path)


def given_digest(directory: RunDirectory, step: int) -> str | None:
    """Digest of the responses that were given after `step`; None where none were. Raises OSError."""
    noted, pool = directory.pool_digest(step), directory.pool(step)
    if not noted.is_file() and pool.is_file():  # an earlier release noted none
        return file_digest(pool)
    return noted.read_text(encoding="utf-8") if noted.is_file() else None


def forget_pools(directory: RunDirectory) -> None:
    """Removes the responses that a run was given which has ended for good; their digests stay. Raises OSError."""
    for pool in directory.pool(0).parent.glob("*.jsonl"):
        noted = directory.pool_digest(int(pool.stem))
        if not noted.is_file():  # an earlier release noted none
            write_whole(noted, file_digest(pool).encode(), durable=True)
        pool.unlink()


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
