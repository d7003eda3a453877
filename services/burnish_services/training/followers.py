"""The leader's view of the other machines of a training service: waiting for them, and an attempt made with them.

Owns who takes part and who was lost; what a lost one means for a run is the supervisor's business, what is in the files
that of `nodes.py`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from burnish_services.training.nodes import BEATS_PER_LEASE, Attempt, Board, Presence, Pulse, WorkerOptions
from burnish_services.training.process import Place

log = logging.getLogger(__name__)

_QUIET_BEATS = 3  # in which followers that are there are seen to be
_GRACE_SECONDS = 10.0  # in which a worker finds out by itself that another machine's part of it is gone
_MIN_RENDEZVOUS_SECONDS = 60.0  # torch is to be imported, on a busy machine


class Followers:
    """The followers of one leader."""

    def __init__(self, board: Board, version: str, endpoint: str, lease_seconds: float) -> None:
        self._board = board
        self._version = version
        self._endpoint = endpoint
        self._lease = lease_seconds
        self._pulses: dict[int, Pulse] = {}
        self._found: dict[int, Presence | None] = {}

    def prepare(self) -> None:
        """Ends what an earlier leader began, so that no follower goes on with it. Raises OSError."""
        self._board.prepare()
        self._board.remove_attempt()

    async def gathered(
        self, nodes: int, tell: Callable[[str], None], given_up: Callable[[], bool]
    ) -> dict[int, Presence] | None:
        """The followers that a run on `nodes` machines needs, once all are there and free; None where it was given up.
        Tells who is missing whenever that changes."""
        told, began = "", time.monotonic()
        while not given_up():
            found = {node: await asyncio.to_thread(self._look, node) for node in range(1, nodes)}
            wrong = [self._complaint(node, presence) for node, presence in found.items()]
            if not any(wrong):
                return {node: presence for node, presence in found.items() if presence is not None}
            words = f"{nodes - 1} followers, of which {wrong.count('')} are ready: " + "; ".join(filter(None, wrong))
            if time.monotonic() - began > _QUIET_BEATS * self._lease / BEATS_PER_LEASE and words != told:
                told = words
                tell(words)
            await asyncio.sleep(min(0.5, self._lease / BEATS_PER_LEASE))
        return None

    def begin(self, run: str, processes: int, options: WorkerOptions, members: dict[int, Presence]) -> Team:
        """Has followers take part in an attempt at a run, of so many processes on each machine, until the team's end.
        To be called in the event loop."""
        attempt = Attempt(
            attempt=secrets.token_hex(8),
            beat=0,
            run=run,
            endpoint=self._endpoint,
            nodes=1 + len(members),
            processes=processes,
            members={node: presence.session for node, presence in members.items()},
            options=options,
            rendezvous_seconds=max(_MIN_RENDEZVOUS_SECONDS, 2 * self._lease),
        )
        return Team(attempt, self._board, self._look, members, self._lease)

    def _look(self, node: int) -> Presence | None:
        """What a follower that lives says of itself."""
        try:
            self._found[node] = self._board.read_presence(node)
        except OSError as error:
            log.warning("what node %d says cannot be read: %s", node, error)  # no news
        found = self._found.get(node)
        return found if self._pulses.setdefault(node, Pulse(self._lease)).beats(found) else None

    def _complaint(self, node: int, found: Presence | None) -> str:
        """Why a follower cannot be worked with now; empty where it can."""
        folder = self._board.folder.absolute()
        if found is None:
            return (
                f"node {node} is not there (start `python -m burnish_services.training.follower --node {node}` on a "
                f"machine that has {folder.parent} mounted)"
            )
        if found.version != self._version:
            return f"node {node} ({found.host}) runs Burnish {found.version}, expected {self._version} as here"
        if found.folder != str(folder):
            return f"node {node} ({found.host}) has {found.folder}, expected {folder}: mount it at the same path"
        if found.at_work:
            return f"node {node} ({found.host}) still ends its part of the last attempt"
        return ""


@dataclass
class Team:
    """One attempt, with the lease that keeps followers at it. `look` has what a follower that lives says of itself."""

    attempt: Attempt
    board: Board
    look: Callable[[int], Presence | None]
    members: dict[int, Presence]
    lease_seconds: float
    # What is wrong with a member's part, by node.
    gone: dict[int, str] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)
    _holding: asyncio.Task[None] | None = None
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def place(self) -> Place:
        """The leader's."""
        return place_of(self.attempt, 0)

    def hold(self, give_up: Callable[[], None]) -> None:
        """Announces the attempt and renews it; calls `give_up` where the worker did not notice that one is lost."""
        self._holding = asyncio.create_task(self._hold(give_up))

    async def _hold(self, give_up: Callable[[], None]) -> None:
        noticed: float | None = None
        while True:
            self.attempt = replace(self.attempt, beat=self.attempt.beat + 1)
            try:
                async with self._writing:
                    await asyncio.to_thread(self.board.write_attempt, self.attempt)
            except OSError as error:
                log.error("attempt %s cannot be renewed, and ends if that lasts: %s", self.attempt.attempt, error)
            await self._look_round()
            if (self.gone or self.failed) and noticed is None:
                noticed = time.monotonic()
                log.warning("attempt %s: %s", self.attempt.attempt, self.words())
            if noticed is not None and time.monotonic() - noticed > _GRACE_SECONDS:
                give_up()
            await asyncio.sleep(self._beat)

    async def end(self, is_expected: Callable[[], bool]) -> None:
        """Ends the attempt. Where that is not expected, waits until every member has said how its part ended, or is
        known to be gone, for a lease at most."""
        if self._holding is not None:
            async with self._writing:  # what has begun is not to come after the removal
                self._holding.cancel()
            await asyncio.wait({self._holding})
        try:
            await asyncio.to_thread(self.board.remove_attempt)
        except OSError as error:
            log.error("attempt %s cannot be ended, and ends by itself: %s", self.attempt.attempt, error)
        deadline = time.monotonic() + self.lease_seconds + self._beat
        while self._open and time.monotonic() < deadline and not is_expected():
            await asyncio.sleep(min(0.2, self._beat))
            await self._look_round()

    def words(self) -> str:
        """What is known of members that were lost; empty where none was."""
        return "; ".join(self._said(node, (self.gone | self.failed)[node]) for node in sorted(self.gone | self.failed))

    def _said(self, node: int, what: str) -> str:
        return f"node {node} ({self.members[node].host}) {what}"

    @property
    def _beat(self) -> float:
        return self.lease_seconds / BEATS_PER_LEASE

    @property
    def _open(self) -> set[int]:
        return self.members.keys() - self.gone.keys() - self._ended

    async def _look_round(self) -> None:
        for node in sorted(self._open):
            found = await asyncio.to_thread(self.look, node)
            if found is None:
                self.gone[node] = "is gone"
            elif found.session != self.attempt.members[node]:
                self.gone[node] = "was started anew meanwhile"
            elif found.ended == self.attempt.attempt:
                self._ended.add(node)
                if found.outcome:
                    self.failed[node] = found.outcome


def place_of(attempt: Attempt, node: int) -> Place:
    """What machine `node` has of an attempt."""
    return Place(
        processes=attempt.processes,
        nodes=attempt.nodes,
        node=node,
        endpoint=attempt.endpoint,
        attempt=attempt.attempt,
        rendezvous_seconds=attempt.rendezvous_seconds,
    )
