"""The worker process of one run: `python -m burnish_services.training.worker RUN_DIR`. Started by the supervisor.

Owns the process: dying with the server, the pipe to it, and saying how the run ended. The training itself is in
`sft.py` or `fake_worker.py`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from burnish_services.engine.base import ModelLoadError, ModelUnreachable
from burnish_services.engine.model_cache import Lease, ModelCache
from burnish_services.engine.model_store import ModelStore
from burnish_services.runtime import logs
from burnish_services.runtime.disks import is_disk_full
from burnish_services.training import delivery, messages, publish
from burnish_services.training.checkpoints import Unreadable
from burnish_services.training.job import Job, StoppedEarly
from burnish_services.training.messages import Message, Reporter
from burnish_services.training.parents import die_with
from burnish_services.training.pausing import PausedRun
from burnish_services.training.runs import RunDirectory
from burnish_services.training.state import Failure, Result, RunError, disk_full
from burnish_services.training.world import World

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Works one run and returns the exit code, which is 0 wherever the server was told what became of the run. Raises
    what another process's death makes of this one."""
    options = _parser().parse_args(arguments)
    world = World.of_environment()
    die_with(options.parent or os.getppid())
    reporter = Reporter(_take_standard_output(world))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    logs.configure("info", "text")
    directory = RunDirectory(options.run)
    job = Job(
        directory,
        directory.read_record(),
        reporter,
        stop,
        threads=options.threads,
        checkpoint_seconds=options.checkpoint_seconds,
        fake_step_seconds=options.fake_step_seconds,
        world=world,
    )
    if world.is_first and not world.is_alone:
        reporter.send(messages.Met())
    message = work(job, ModelStore(ModelCache(options.model_cache, options.model_cache_bytes)))
    if message is not None:
        reporter.send(message)
    if isinstance(message, messages.Failed) and not world.is_first:
        log.error("process %d of %d failed: %s", world.rank, world.size, message.failure.message)
    # The first process fails in the same way, or notices that this one is gone.
    return int(isinstance(message, messages.Failed) and not world.is_first)


def work(job: Job, models: ModelStore) -> Message | None:
    """The run's last message; whatever goes wrong is in it. None from a process that has nothing to say."""
    try:
        result = _published(job)
        if result is None:
            with _based(job, models) as based:
                result = _trainer(job.record.resolved.trainer)(based)
            if result is not None and job.record.resolved.publish_to:
                result = _published(job)
        return None if result is None else messages.Done(result)
    except PausedRun as paused:
        return messages.Paused(paused.pause)
    except (StoppedEarly, delivery.Interrupted):
        return messages.Stopped()
    except RunError as error:
        return messages.Failed(error.failure)
    except Unreadable:  # a crash: another worker tries again, and what is there stays
        raise
    except ModelLoadError as error:
        return messages.Failed(Failure("FAILED_PRECONDITION", error.reason, str(error)))
    except Exception as error:
        log.exception("training failed")
        if not job.world.is_alone and lost_another(error):
            raise
        return messages.Failed(unexpected_failure(error, job.directory.path))


def _published(job: Job) -> Result | None:
    """The result of a run whose model is in its place; it is brought there, where it is in object storage and the model
    was made already. Raises RunError, Interrupted, ModelLoadError, OSError."""
    place = job.record.resolved.place
    if place is None:
        return publish.published(job.directory, job.record)
    if not job.world.is_first:  # the first one delivers
        return delivery.persistently(place, lambda: publish.find_made(job.directory, job.record), job.stop)
    return delivery.persistently(place, lambda: publish.deliver_made(job.directory, job.record), job.stop)


@contextmanager
def _based(job: Job, models: ModelStore) -> Iterator[Job]:
    """The job with its base model on this machine for as long: one from object storage that is not here any more is
    fetched again, however long that is not possible. Raises ModelLoadError, Interrupted, OSError."""
    resolved = job.record.resolved
    if not resolved.base_uri:
        yield job
        return
    with _lease(job, models) as lease:
        yield replace(job, record=replace(job.record, resolved=replace(resolved, base=lease.path)))


def _lease(job: Job, models: ModelStore) -> Lease:
    resolved = job.record.resolved
    wait = 1.0
    while True:
        try:
            return models.lease(resolved.base_uri, resolved.base_digest)
        except ModelUnreachable as error:
            log.warning("trying again in %.0f s: %s", wait, error)
        if job.stop.wait(wait):
            raise delivery.Interrupted
        wait = min(2 * wait, 60.0)


def _trainer(name: str) -> Callable[[Job], Result | None]:
    """The function that trains and publishes, its libraries imported only now. It raises RunError, StoppedEarly,
    ModelLoadError, OSError."""
    if name == "fake":
        from burnish_services.training.fake_worker import train as fake_train

        return fake_train
    from burnish_services.training.sft import train

    return train


def lost_another(error: BaseException) -> bool:
    """True for what a process gets where another of the same run is gone: a crash of that one, not a failure of its
    own. The backends of torch.distributed raise RuntimeErrors that say so in their text only."""
    said = str(error)
    return type(error).__module__.startswith("torch.distributed") or any(
        word in said for word in ("gloo/transport", "NCCL", "Connection closed by peer", "Connection reset by peer")
    )


def unexpected_failure(error: BaseException, place: Path) -> Failure:
    """How an exception that no trainer names is told: a full disk or exhausted memory as such."""
    if is_disk_full(error):
        return disk_full(error, place)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        return Failure(
            "RESOURCE_EXHAUSTED",
            "OUT_OF_MEMORY",
            f"memory ran out: {error}. Use a smaller per_device_batch_size (and more gradient_accumulation_steps), "
            "gradient_checkpointing, or a smaller max_sequence_tokens",
        )
    return Failure("INTERNAL", "TRAINING_FAILED", f"{type(error).__name__}: {error}")


def _take_standard_output(world: World) -> int:
    """The pipe to the server, for messages only; what libraries print goes to the log instead. Of several processes the
    first one speaks."""
    pipe = os.dup(1) if world.is_first else os.open(os.devnull, os.O_WRONLY)
    os.dup2(2, 1)
    return pipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m burnish_services.training.worker", description=__doc__)
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("--parent", type=int, default=0, help="process id of the server; 0: whoever started this")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--model-cache", type=Path, default=Path("burnish-state", "models"))
    parser.add_argument("--model-cache-bytes", type=int, default=200 * 2**30)
    parser.add_argument("--checkpoint-seconds", type=float, default=600.0)
    parser.add_argument("--fake-step-seconds", type=float, default=0.002)
    return parser


if __name__ == "__main__":
    sys.exit(main())
