"""Works the queue of runs, one worker process at a time, takes up what an earlier server left, and removes what nobody
needs any more.

Owns who is next, what a worker's end means, starting anew after a crash, and for how long what is kept. The states are
in `state.py`, the files in `runs.py`, the process in `process.py`.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.object_places import ObjectError
from burnish_services.runtime.disks import is_disk_full
from burnish_services.runtime.files import unfinished, write_whole
from burnish_services.training import leftover, pausing, publish, state
from burnish_services.training.clearing import Clearer
from burnish_services.training.config import TrainingSettings
from burnish_services.training.data_store import DataStore
from burnish_services.training.followers import Followers, Team
from burnish_services.training.messages import (
    LAST,
    Checkpointed,
    Done,
    Failed,
    Message,
    Met,
    Paused,
    Progressed,
    Stopped,
)
from burnish_services.training.nodes import WorkerOptions
from burnish_services.training.process import Place, WorkerProcess, describe_exit
from burnish_services.training.readings import Tally
from burnish_services.training.runs import Run, RunStore
from burnish_services.training.state import Failure, RestartLimits, Result, RunState, Snapshot

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 3600.0  # between sweeps where no run begins or ends
_SWEEP_STOPS = 5.0  # seconds that a sweep has at a close: a disk that does not answer may hold it for ever


class Supervisor:
    """All runs of a store are worked by at most one supervisor."""

    def __init__(
        self,
        store: RunStore,
        data: DataStore,
        settings: TrainingSettings,
        followers: Followers,
        worker_options: Sequence[str] = (),
    ) -> None:
        """`worker_options`: what workers are told beside the run and the settings, on whichever machine they are."""
        self._store = store
        self._data = data
        self._settings = settings
        self._followers = followers
        self._options = WorkerOptions(
            settings.worker_threads, settings.checkpoint_seconds, settings.fake_step_seconds, tuple(worker_options)
        )
        self._limits = RestartLimits(worker_crashes=settings.max_restarts)
        self.tally = Tally()
        self.clearer = Clearer()
        self._queue: asyncio.Queue[Run] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        # The run being worked, its worker once started, and whether it shall be cancelled.
        self._current: Run | None = None
        self._worker: WorkerProcess | None = None
        self._cancelling = False
        self._leftovers = asyncio.Lock()  # nobody removes what another run takes over just now
        self._serves_since = time.time()  # before that nobody could give a run anything

    async def start(self) -> None:
        """Queues what an earlier server left unfinished, oldest first, and begins to work."""
        await asyncio.to_thread(self._followers.prepare)
        self._serves_since = time.time()
        for run in self._store.oldest_first():
            if run.snapshot.state is RunState.RUNNING:
                after = state.orphaned(run.snapshot, run.last.time, self._limits)
                if after.state.ended and run.directory.cancelled.is_file():
                    after = await _cancelled(run)
                self._update(run, await self._cleaned_up(run, after) if after.state.ended else after)
            elif run.snapshot.state.ended:
                await self._cleaned_up(run, run.snapshot)
            self.clearer.add(run)
            if run.snapshot.state is RunState.PENDING:
                self._queue.put_nowait(run)
        await self._sweep()
        self._task = asyncio.create_task(self._work_queue())
        self._sweeping = asyncio.create_task(self._sweep_hourly())

    async def close(self) -> None:
        """Stops the worker, which gets the time to write a checkpoint; its run waits for the next server."""
        self._closing.set()
        self.clearer.close()
        if self._task is None:
            return
        if self._worker is not None:
            self._worker.stop()
        done, _ = await asyncio.wait({self._task}, timeout=self._settings.stop_seconds)
        if not done:
            if self._worker is not None:
                self._worker.kill()
            await asyncio.wait({self._task})
        for run in self._store.oldest_first():
            run.events.flush()
        if self._sweeping is not None:
            await asyncio.wait({self._sweeping}, timeout=_SWEEP_STOPS)
            self._sweeping.cancel()  # what it has not done the next server does

    def submit(self, run: Run) -> None:
        """Queues a run that is new, or has what it paused for."""
        self._queue.put_nowait(run)

    async def cancel(self, run: Run) -> None:
        """Ends a run; one that is being worked has ended a moment later. One that has ended stays as it is, but for
        what it left, if it failed."""
        if run is self._current and not run.snapshot.state.ended:
            self._cancelling = True
            if self._worker is not None:
                self._worker.kill()
            # Before anybody is told: what comes may take long, where a store does not answer, and this server may die.
            await asyncio.shield(asyncio.to_thread(_note_cancelled, run))
            now = run.snapshot
            if now.state.ended and run.events.flush():  # meanwhile
                _unlink(run.directory.cancelled)
            return
        if not run.snapshot.state.ended:
            self._update(run, state.cancelled(run.snapshot, time.time()))
            self.clearer.add(run)
        await asyncio.shield(self._forget(run))  # a caller that goes away changes nothing

    async def _forget(self, run: Run) -> None:
        """Removes all that a run that has ended may have left."""
        async with self._leftovers:
            await asyncio.to_thread(_remove, run)
            if run.events.flush():  # there may be room now
                await asyncio.to_thread(_forget_pools, [run])

    async def _work_queue(self) -> None:
        closing = asyncio.ensure_future(self._closing.wait())
        while not self._closing.is_set():
            getting = asyncio.ensure_future(self._queue.get())
            await asyncio.wait({getting, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                return
            try:
                await self._work(getting.result())
            except Exception:  # the other runs go on
                log.exception("run %s: its end could not be noted", getting.result().record.run_id)

    async def _work(self, run: Run) -> None:
        """Attempts a run until it has ended or pauses, or the server stops."""
        await self._sweep()
        await self.clearer.cleared(run.record.resolved.publish_to)
        while run.snapshot.state is RunState.PENDING and not self._closing.is_set():
            self._current, self._cancelling = run, False
            try:
                self._cancelling = run.directory.cancelled.is_file()
                if self._cancelling:  # an earlier server promised it
                    self._update(run, await self._cleaned_up(run, await _cancelled(run), nothing_kept=True))
                else:
                    await self._attempt(run)
            except Exception as error:
                log.exception("run %s could not be worked", run.record.run_id)
                failure = _not_started(error, run)
                after = state.failed(run.snapshot, time.time(), failure)
                self._update(run, await self._cleaned_up(run, after))
            finally:
                self._current = None
            if run.snapshot.state is RunState.PENDING:
                await self._closes_within(self._settings.restart_delay)
        self.clearer.add(run)
        await self._sweep()

    async def _closes_within(self, seconds: float) -> bool:
        """Waits so long, or until the server closes; whether it does."""
        try:
            await asyncio.wait_for(self._closing.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _take_over(self, run: Run) -> None:
        """Has a run that was not begun go on from where one of the same kind failed, the newest first."""
        if run.snapshot.attempts:
            return
        try:
            async with self._leftovers:
                others = self._ended_for_good()[::-1]
                found = await asyncio.to_thread(leftover.find, run, others, self._settings.keep_failed_seconds)
                if found is None:
                    return
                await asyncio.to_thread(leftover.take, run.directory, found.directory)
        except OSError as error:
            log.warning("run %s cannot go on from what another left, and begins anew: %s", run.record.run_id, error)
            return
        log.info("run %s goes on from what run %s left", run.record.run_id, found.record.run_id)
        run.update(state.succeeding(run.snapshot, found.snapshot), time.time())

    async def _attempt(self, run: Run) -> None:
        resolved = run.record.resolved
        place, team = Place(resolved.processes), None
        if resolved.nodes > 1:
            team = await self._team(run)
            if team is None:
                return
            place = team.place
        await self._take_over(run)
        run.update(state.begun(run.snapshot, time.time()), time.time())
        options = self._options
        if place.is_single:  # though others may be trained by several
            options = replace(options, threads=self._settings.threads_of(1))
        worker = await WorkerProcess.start(run.directory, options, place)
        log.info("run %s: worker %d started", run.record.run_id, worker.pid)
        self._worker = worker
        if team is not None:
            team.hold(give_up=worker.kill)
        last: Message | None = None
        met = team is None
        try:
            if self._cancelling:
                worker.kill()
            elif self._closing.is_set():
                worker.stop()
            async for message in worker.messages():
                last = message
                met = met or isinstance(message, Met)
                self._take(run, message)
        finally:
            # A worker that has closed its pipe has nothing more to say.
            if not isinstance(last, LAST):
                worker.kill()
            code = await worker.wait()
            self._worker = None
            if team is not None:
                await team.end(lambda: isinstance(last, LAST) or self._cancelling or self._closing.is_set())
        log.info("run %s: worker %d %s", run.record.run_id, worker.pid, describe_exit(code))
        await self._conclude(run, worker, last, code, team, met=met)

    async def _team(self, run: Run) -> Team | None:
        """The machines to make an attempt with, once all are there; None where the run was cancelled meanwhile or the
        server stops."""

        def tell(words: str) -> None:
            log.warning("run %s waits for %s", run.record.run_id, words)
            run.update(state.waiting(run.snapshot, words), time.time())

        resolved = run.record.resolved
        members = await self._followers.gathered(
            resolved.nodes, tell, lambda: self._cancelling or self._closing.is_set()
        )
        if members is None:
            if self._cancelling:
                await asyncio.to_thread(_remove, run)
                self._update(run, state.cancelled(run.snapshot, time.time()))
            return None
        return self._followers.begin(run.record.run_id, resolved.processes // resolved.nodes, self._options, members)

    def _take(self, run: Run, message: Message) -> None:
        if isinstance(message, Progressed):
            self.tally.advance(run.record.run_id, run.snapshot.progress, message.progress)
            run.update(state.progressed(run.snapshot, message.progress), time.time())
        elif isinstance(message, Checkpointed):
            run.update(state.checkpointed(run.snapshot), time.time())
        elif isinstance(message, Met) and run.snapshot.unmet:
            run.update(state.met(run.snapshot), time.time())

    async def _conclude(
        self, run: Run, worker: WorkerProcess, last: Message | None, code: int, team: Team | None, *, met: bool
    ) -> None:
        """What the worker's end means for the run."""
        now = time.time()
        if isinstance(last, Done):
            after = state.succeeded(run.snapshot, now, last.result)
        elif isinstance(last, Paused) and not self._cancelling:
            after = state.paused(run.snapshot, now, last.pause)
        elif isinstance(last, Failed):
            after = state.failed(run.snapshot, now, _with_log(last.failure, worker))
        elif self._cancelling:
            after = await _cancelled(run)
        elif isinstance(last, Stopped) or self._closing.is_set():
            after = state.interrupted(run.snapshot, now)
        elif not met:
            after = state.unmet(run.snapshot, now, self._unmet(run, worker, code, team), self._limits)
        else:
            how = state.deserted if team is not None and team.gone else state.crashed
            after = how(run.snapshot, now, self._crash(run, worker, code, team), self._limits)
        if after.state.ended:
            # First, so that a disk that was full has room for the event.
            told = await self._cleaned_up(run, after, nothing_kept=self._cancelling)
            if self._cancelling and told is not after:  # meanwhile
                await asyncio.to_thread(_remove, run)
            else:
                after = told
        self._update(run, after)
        log.info("run %s: %s", run.record.run_id, after.state)

    def _update(self, run: Run, after: Snapshot) -> None:
        """Notes what may be a run's end."""
        if after.state.ended and not run.snapshot.state.ended:
            self._data.used(run.record.resolved.data_files)  # before it counts as ended: a sweep may look just then
            self.tally.ended[after.state] += 1
            self.tally.furthest.pop(run.record.run_id, None)
        run.update(after, time.time())
        if after.state.ended and run.events.flush():
            _unlink(run.directory.cancelled)

    def _ended_for_good(self) -> list[Run]:
        """The runs that have ended, oldest first. One whose end is not on disk would be taken up again by the next
        server."""
        return [one for one in self._store.oldest_first() if one.snapshot.state.ended and one.events.flush()]

    async def _sweep_hourly(self) -> None:
        while not await self._closes_within(_SWEEP_SECONDS):
            await self._sweep()

    async def _sweep(self) -> None:
        """Removes copies of data that were only needed by runs that have ended, what failed runs left long ago, what
        runs that have ended were given, and runs that ended even longer ago; ends those that waited for too long.
        Raises nothing: what cannot be done for one run keeps no other waiting."""
        for part in (self._give_up_waiting, self._sweep_data, self._sweep_runs):
            if not self._closing.is_set():
                with _housekeeping("what nobody needs any more could not all be removed"):
                    await part()

    async def _give_up_waiting(self) -> None:
        """Cancels paused runs that nobody has given their responses for too long, while there was a server to give
        them to."""
        longest, now = self._settings.keep_paused_seconds, time.time()
        for run in self._store.oldest_first():
            waited = now - max(run.last.time, self._serves_since)  # the pause is its newest event
            if run.snapshot.state is not RunState.PAUSED or not longest or waited < longest or run is self._current:
                continue
            if self._closing.is_set():
                return
            log.warning("run %s: cancelled, it was paused for %.1f days", run.record.run_id, waited / 86400)
            with _housekeeping(f"run {run.record.run_id}, which was paused for too long, could not be cleared away"):
                self._update(run, state.given_up(run.snapshot, now, _waited_too_long(run, longest)))
                self.clearer.add(run)
                await self._forget(run)

    async def _sweep_data(self) -> None:
        await asyncio.to_thread(self._data.sweep)

    async def _sweep_runs(self) -> None:
        async with self._leftovers:
            for run in await asyncio.to_thread(self._failed_with_leftovers):
                if self._closing.is_set():
                    return
                with _housekeeping(f"what run {run.record.run_id} left could not be removed"):
                    await self._cleaned_up(run, run.snapshot)
            ended = self._ended_for_good()
            await asyncio.to_thread(_forget_pools, ended)
            for run in await asyncio.to_thread(self._outdated, ended):
                if self._closing.is_set():
                    return
                await self._remove_run(run)

    def _failed_with_leftovers(self) -> list[Run]:
        found = []
        for run in self._store.oldest_first():
            with _housekeeping(f"what run {run.record.run_id} left cannot be looked at"):
                if run.snapshot.state is RunState.FAILED and leftover.is_there(run.directory):
                    found.append(run)
        return found

    def _outdated(self, ended: Sequence[Run]) -> list[Run]:
        """Of runs that have ended, those that nobody needs any more."""
        if not self._settings.keep_ended_seconds:
            return []
        found = []
        for run in ended:
            with _housekeeping(f"run {run.record.run_id}, which has ended, cannot be looked at"):
                if self._is_outdated(run):
                    found.append(run)
        return found

    def _is_outdated(self, run: Run) -> bool:
        """Whether it is long over, with nothing that lies in its directory or is noted there to be done. Raises
        OSError."""
        now = time.time()
        return (
            now - (run.snapshot.end_time or now) >= self._settings.keep_ended_seconds
            # The newest tells the next one its number.
            and run.record.sequence < self._store.last_sequence
            and not leftover.may_leave(run, run.snapshot, self._settings.keep_failed_seconds)
            and not run.directory.placed.exists()
            and not run.directory.model.exists()
        )

    async def _remove_run(self, run: Run) -> None:
        try:
            await self._store.remove(run)
        except OSError as error:
            log.warning("run %s, which ended long ago, cannot be removed: %s", run.record.run_id, error)
            return
        log.info("run %s removed: it ended long ago", run.record.run_id)

    async def _cleaned_up(self, run: Run, after: Snapshot, *, nothing_kept: bool = False) -> Snapshot:
        """Removes what only an unfinished run needs, but for what the next one may go on from; the run's end, as it is
        told."""
        if nothing_kept or not leftover.may_leave(run, after, self._settings.keep_failed_seconds):
            await asyncio.to_thread(_remove, run)
            return after
        await asyncio.to_thread(_remove_passing, run)
        if run.snapshot.state.ended:
            return after
        try:
            return await asyncio.to_thread(leftover.told, after, run.directory, run.record.run_id)
        except OSError as error:
            log.warning("run %s: what it left cannot be looked at: %s", run.record.run_id, error)
            return after

    def _crash(self, run: Run, worker: WorkerProcess, code: int, team: Team | None) -> Failure:
        now, step = run.snapshot, run.snapshot.progress.step
        times = 1 + (now.server_crashes if team is not None and team.gone else now.crashes)
        self.tally.crashes += 1
        how = "lost other machines" if team is not None and team.words() else describe_exit(code)
        log.warning("run %s: worker %d %s after step %d", run.record.run_id, worker.pid, how, step)
        return Failure(
            "ABORTED",
            "WORKER_CRASHED",
            f"the worker {how} after step {step}, {times} times without a checkpoint in between. "
            f"{_last_words(run, worker, team)}",
        )

    def _unmet(self, run: Run, worker: WorkerProcess, code: int, team: Team | None) -> Failure:
        words = _last_words(run, worker, team)
        log.warning("run %s: the machines did not find together. %s", run.record.run_id, words)
        return Failure(
            "UNAVAILABLE",
            "NODES_NOT_MET",
            f"the {run.record.resolved.nodes} machines of the run did not find together, {run.snapshot.unmet + 1} "
            f"times in a row: the worker {describe_exit(code)}. Expected that all reach the leader at "
            f"{self._settings.endpoint} (BURNISH_TRAINING_RENDEZVOUS), and each other on all TCP ports. {words}",
        )


@contextmanager
def _housekeeping(failure: str) -> Iterator[None]:
    """Housekeeping fails no run and no start: what is raised is logged after the words of `failure`, and the next
    sweep tries again."""
    try:
        yield
    except Exception as error:
        foreseen = isinstance(error, OSError)
        log.warning("%s; the next sweep tries again: %s", failure, error, exc_info=None if foreseen else error)


def _last_words(run: Run, worker: WorkerProcess, team: Team | None) -> str:
    words, others = worker.last_words(), "" if team is None else team.words()
    of_others = f"Of other machines: {others}. " if others else ""
    return f"{of_others}Its log {run.directory.log} " + (f"ends: {words}" if words else "is empty")


def _with_log(failure: Failure, worker: WorkerProcess) -> Failure:
    """A failure that nobody foresaw is told with what the worker's log says about it."""
    if failure.code != "INTERNAL":
        return failure
    return Failure(failure.code, failure.reason, f"{failure.message}. The worker's log ends: {worker.last_words()}")


def _waited_too_long(run: Run, longest: float) -> Failure:
    pause = run.snapshot.pause
    return Failure(
        "DEADLINE_EXCEEDED",
        "PAUSED_TOO_LONG",
        f"the run waited for responses since its pause after step {pause.step if pause else 0}, for longer than the"
        f" {longest:,.0f} s that this server keeps paused runs (BURNISH_TRAINING_KEEP_PAUSED_SECONDS); create it again"
        " with another request id, and give it responses sooner",
    )


def _note_cancelled(run: Run) -> None:
    try:
        write_whole(run.directory.cancelled, b"", durable=True)
    except OSError as error:
        log.warning("run %s is being cancelled; should this server die now, it goes on: %s", run.record.run_id, error)


def _not_started(error: Exception, run: Run) -> Failure:
    if is_disk_full(error):
        return state.disk_full(error, run.directory.path)
    return Failure(
        "INTERNAL",
        "WORKER_NOT_STARTED",
        f"the worker could not be started: {type(error).__name__}: {error}; expected {sys.executable} to run, and"
        f" {run.directory.path} to be a place that can be written: mend that, and create the run again",
    )


async def _cancelled(run: Run) -> Snapshot:
    """A run that is cancelled. It may have published in its last moment; what is published is published."""
    result = await asyncio.to_thread(_published, run)
    now = time.time()
    return state.cancelled(run.snapshot, now) if result is None else state.succeeded(run.snapshot, now, result)


def _published(run: Run) -> Result | None:
    try:
        return publish.published(run.directory, run.record)
    except (ModelLoadError, ObjectError) as error:
        log.warning("run %s: cannot tell whether its model is published: %s", run.record.run_id, error)
        return None


def _remove(run: Run) -> None:
    """Removes what only an unfinished run needs."""
    shutil.rmtree(run.directory.checkpoints, ignore_errors=True)
    _unlink(run.directory.best)
    _remove_passing(run)


def _remove_passing(run: Run) -> None:
    """Of that, what the next attempt makes anew."""
    shutil.rmtree(run.directory.paused, ignore_errors=True)
    if run.record.resolved.place is not None:  # the model is there, or not wanted here
        shutil.rmtree(run.record.resolved.output, ignore_errors=True)
    _unlink(unfinished(run.directory.best))
    shutil.rmtree(publish.staging_path(run.record.resolved.output, run.record.run_id), ignore_errors=True)


def _forget_pools(runs: Sequence[Run]) -> None:
    """Removes the responses that runs were given whose end is on disk: one that goes on would want them."""
    for run in runs:
        if run.record.resolved.refinement is None:
            continue
        try:
            pausing.forget_pools(run.directory)
        except OSError as error:
            log.warning("run %s: the responses that it was given cannot be removed: %s", run.record.run_id, error)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)
