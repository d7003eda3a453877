"""Clears what runs that have ended left in object storage beside models: for as long as it takes, and on a thread of
its own, since nobody shall wait for a store that does not answer. Imports no torch."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from dataclasses import dataclass

from burnish_services.engine.object_places import (
    ObjectError,
    ObjectMalformed,
    ObjectMissing,
    ObjectPlace,
    is_object_uri,
)
from burnish_services.engine.objects import list_objects
from burnish_services.training import delivery
from burnish_services.training.runs import Run
from burnish_services.training.state import RunState

log = logging.getLogger(__name__)

# What a worker had sent when it was killed may still come to be; only then is there nothing more to come.
_SETTLE = 5.0  # seconds after a run's end
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 300.0  # seconds, while the store does not let it
_PATIENCE = 10.0  # seconds that a run waits for what another left at its place


@dataclass(slots=True)
class _Waiting:
    run: Run
    due: float  # of time.monotonic
    wait: float = _FIRST_WAIT


class Clearer:
    """Knows the runs whose places wait to be cleared."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiting] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, run: Run) -> None:
        """Has the place of a run that has ended cleared, unless it left nothing there."""
        if not run.snapshot.state.ended or run.record.resolved.place is None or not run.directory.placed.is_file():
            return
        settled = (run.snapshot.end_time or 0.0) + _SETTLE - time.time()
        with self._changed:
            self._waiting.setdefault(
                run.record.run_id, _Waiting(run, time.monotonic() + min(max(settled, 0.0), _SETTLE))
            )
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="clearing", daemon=True)
                self._thread.start()

    async def cleared(self, output_uri: str) -> None:
        """Returns once no run's place that is called so waits any more, after 10 seconds at most."""
        try:
            place = ObjectPlace.parse(output_uri) if is_object_uri(output_uri) else None
        except ObjectMalformed:
            return
        if place is not None and self._waits(place):
            await asyncio.to_thread(self._wait, place)

    def close(self) -> None:
        """Begins nothing more; the next server clears the rest."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _waits(self, place: ObjectPlace) -> bool:
        with self._changed:
            return any(one.run.record.resolved.place == place for one in self._waiting.values())

    def _wait(self, place: ObjectPlace) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._waits(place), _PATIENCE)

    def _work(self) -> None:
        while (one := self._next()) is not None:
            done = clear(one.run)
            with self._changed:
                if done:
                    del self._waiting[one.run.record.run_id]
                    self._changed.notify_all()
                else:
                    one.due, one.wait = time.monotonic() + one.wait, min(2 * one.wait, _LONGEST_WAIT)

    def _next(self) -> _Waiting | None:
        """The first that is due, once it is; None when there is nothing more to do."""
        with self._changed:
            while not self._closed:
                first = min(self._waiting.values(), key=lambda one: one.due, default=None)
                left = None if first is None else first.due - time.monotonic()
                if first is not None and left is not None and left <= 0:
                    return first
                self._changed.wait(left)
            return None


def clear(run: Run) -> bool:
    """Removes what a run left in object storage that is not its model, whole; False where the store does not let it."""
    place, run_id = run.record.resolved.place, run.record.run_id
    assert place is not None
    try:
        if run.snapshot.state is RunState.SUCCEEDED:  # its worker was killed after the last file of the model
            delivery.finish(place, run_id)
            shutil.rmtree(run.record.resolved.output, ignore_errors=True)
        else:
            delivery.abandon(place, run_id)
        run.directory.placed.unlink(missing_ok=True)
    except Exception as error:  # whatever it is, the other places are cleared
        if isinstance(error, ObjectMissing) and _is_gone(place):
            return True
        log.warning("what run %s left below %s cannot be removed yet: %s", run_id, place, error)
        return False
    return True


def _is_gone(place: ObjectPlace) -> bool:
    """Whether there is no such bucket any more."""
    try:
        list_objects(place)
    except ObjectError as error:
        return isinstance(error, ObjectMissing)
    return False
