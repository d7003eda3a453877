"""A follower: one of the machines that train with a leader, taking part in one attempt after the other.

Knows nothing of runs: what to do stands in the files of `nodes.py`, the work is the worker's (`process.py`), and states
are the leader's business.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from dataclasses import replace

from burnish_services.runtime.serve import burnish_version
from burnish_services.training.followers import place_of
from burnish_services.training.nodes import BEATS_PER_LEASE, Attempt, Board, Presence, Pulse
from burnish_services.training.process import WorkerProcess, describe_exit
from burnish_services.training.runs import RunDirectory

log = logging.getLogger(__name__)


class Replaced(Exception):
    """Another follower with this number was started later."""


class Follower:
    """Follower `node` of the leader that writes to a board."""

    def __init__(self, board: Board, node: int, *, lease_seconds: float, stop_seconds: float) -> None:
        self._board = board
        self._lease = lease_seconds
        self._stop_seconds = stop_seconds
        self._pulse = Pulse(lease_seconds)
        self._attempt: Attempt | None = None  # the leader's, as last seen
        self._writing = asyncio.Lock()
        self._presence = Presence(
            node=node,
            session=secrets.token_hex(8),
            beat=0,
            host=socket.gethostname(),
            version=burnish_version(),
            folder=str(board.folder.absolute()),
        )

    async def work(self, stop: asyncio.Event) -> None:
        """Takes part in attempts until `stop` is set. Raises Replaced, and OSError where it can't even begin."""
        await asyncio.to_thread(self._board.prepare)
        await asyncio.to_thread(self._board.write_presence, self._presence)
        log.info("ready", extra={"node": self._presence.node, "folder": self._presence.folder})
        stopping = asyncio.ensure_future(stop.wait())
        beating = asyncio.ensure_future(self._beat_on())
        working = asyncio.ensure_future(self._take_turns(stop))
        await asyncio.wait({stopping, beating, working}, return_when=asyncio.FIRST_COMPLETED)
        if beating.done():
            working.cancel()
            await asyncio.wait({working})
            beating.result()
        await working
        async with self._writing:  # a write that has begun is not to come after the removal
            beating.cancel()
        await asyncio.wait({beating})
        await asyncio.to_thread(self._board.remove_presence, self._presence.node)

    @property
    def _beat(self) -> float:
        return self._lease / BEATS_PER_LEASE

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(self._beat)
            await self._show()

    async def _show(self, *, at_work: str | None = None, ended: str = "", outcome: str = "") -> None:
        """Renews what this follower says of itself. Raises Replaced."""
        async with self._writing:
            now = replace(self._presence, beat=self._presence.beat + 1)
            if at_work is not None:
                now = replace(now, at_work=at_work, ended=ended, outcome=outcome)
            self._presence = now
            try:
                other = await asyncio.to_thread(self._board.read_presence, now.node)
                if other is not None and other.session != now.session:
                    raise Replaced(
                        f"a follower on {other.host} has number {now.node}, too, and was started later; this one ends. "
                        "Give each its own --node"
                    )
                await asyncio.to_thread(self._board.write_presence, now)
            except OSError as error:
                log.error("cannot say that this follower is there: %s", error)

    async def _take_turns(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            attempt = await self._look()
            mine = attempt is not None and attempt.members.get(self._presence.node) == self._presence.session
            if attempt is not None and mine and attempt.attempt != self._presence.ended:
                await self._take_part(attempt, stop)
            await asyncio.sleep(self._beat)

    async def _look(self) -> Attempt | None:
        """The attempt that the leader makes now; None where there is none, or it is renewed no more."""
        try:
            self._attempt = await asyncio.to_thread(self._board.read_attempt)
        except OSError as error:
            log.warning("what the leader works on cannot be read: %s", error)  # no news
        seen = self._attempt
        return seen if self._pulse.beats(seen) else None

    async def _take_part(self, attempt: Attempt, stop: asyncio.Event) -> None:
        node, directory = self._presence.node, RunDirectory(self._board.folder / attempt.run)
        log.info("takes part", extra={"run_id": attempt.run, "attempt": attempt.attempt, "nodes": attempt.nodes})
        await self._show(at_work=attempt.attempt)
        outcome = ""
        try:
            worker = await WorkerProcess.start(directory, attempt.options, place_of(attempt, node))
        except OSError as error:
            outcome = f"could not start its part: {error}"
        else:
            try:
                outcome = await self._accompany(worker, attempt, stop)
            finally:
                worker.kill()
                code = await worker.wait()
            if outcome:
                words = worker.last_words()
                outcome += f" {describe_exit(code)}; its log {directory.log_of(node)} ends: {words}"
        log.info(
            "took part", extra={"run_id": attempt.run, "attempt": attempt.attempt, "outcome": outcome[:60] or "ok"}
        )
        # One that is about to stop is not free for the next.
        at_work = attempt.attempt if stop.is_set() else ""
        await self._show(at_work=at_work, ended=attempt.attempt, outcome=outcome)

    async def _accompany(self, worker: WorkerProcess, attempt: Attempt, stop: asyncio.Event) -> str:
        """Until the worker, the attempt or this follower's time has ended; the worker may still be there then. In words
        what went wrong in the worker alone."""
        ended, stopping = asyncio.ensure_future(worker.ended()), asyncio.ensure_future(stop.wait())
        deadline: float | None = None
        try:
            while True:
                waiting_for = {ended} if deadline is not None else {ended, stopping}
                await asyncio.wait(waiting_for, timeout=self._beat, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    return "" if deadline is not None or worker.ended_well else "failed: its worker"
                now = await self._look()
                if now is None or now.attempt != attempt.attempt:
                    log.info("the attempt is over", extra={"run_id": attempt.run, "attempt": attempt.attempt})
                    return ""
                if stop.is_set() and deadline is None:
                    worker.stop()
                    deadline = time.monotonic() + self._stop_seconds
                elif deadline is not None and time.monotonic() > deadline:
                    return ""
        finally:
            ended.cancel()
            stopping.cancel()
