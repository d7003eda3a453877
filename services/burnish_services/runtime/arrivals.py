"""Who may send a message now, and for how long: so many at a time, and who stalls makes room for the others.

Places go to the peer that has the fewest, and in order of arrival among those. A peer that stalled is remembered until
a message of its own has arrived. It goes last then, and loses its place at once where another waits, so that stuck
clients delay the others once and not again. Knows no gRPC: a peer is a word.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

# A message that has not arrived after so many seconds gives its place to one that waits for a place.
PATIENCE = 5.0
# Peers that are remembered.
_MOST_STALLED = 4096

T = TypeVar("T")


class Stalled(Exception):
    """A message did not arrive in time; `displaced`: because others waited for its place."""

    def __init__(self, *, displaced: bool) -> None:
        super().__init__("a message did not arrive in time")
        self.displaced = displaced


@dataclass(eq=False, slots=True)
class _Arrival:
    """A message on its way."""

    peer: str
    timeout: asyncio.Timeout
    begin: float = field(default_factory=time.monotonic)
    displaced: bool = False

    @property
    def is_leaving(self) -> bool:
        """Whether its place is as good as free: it was displaced, or its own time is up."""
        return self.displaced or self.timeout.expired()


@dataclass(eq=False, slots=True)
class _Waiter:
    """A message that may not be sent yet."""

    peer: str
    admitted: asyncio.Future[None]


class Places:
    """`count` messages on their way at a time, each for at most `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._arriving: list[_Arrival] = []  # oldest first
        self._waiting: list[_Waiter] = []  # none while places are free
        self._held: Counter[str] = Counter()  # places, by peer
        self._stalled: dict[str, None] = {}  # oldest first
        self._next_look: asyncio.TimerHandle | None = None

    async def arrived(self, peer: str, receive: Callable[[], Awaitable[T]]) -> T:
        """What `receive` returns, begun once there is a place. Raises Stalled."""
        await self._enter(peer)
        arrival: _Arrival | None = None
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                arrival = _Arrival(peer, timeout)
                self._arriving.append(arrival)
                received = await receive()
            self._stalled.pop(peer, None)
            return received
        except TimeoutError:
            self._remember(peer)
            raise Stalled(displaced=arrival is not None and arrival.displaced) from None
        finally:
            if arrival in self._arriving:
                self._arriving.remove(arrival)
            self._leave(peer)

    async def _enter(self, peer: str) -> None:
        if self._held.total() < self._count:
            self._held[peer] += 1
            return
        waiter = _Waiter(peer, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        if self._next_look is not None:
            self._next_look.cancel()
        self._make_room()
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.admitted.cancelled():
                self._leave(peer)  # it had been given a place already
            raise

    def _leave(self, peer: str) -> None:
        self._held[peer] -= 1
        if not self._held[peer]:
            del self._held[peer]
        waiting = [waiter for waiter in self._waiting if not waiter.admitted.done()]
        if waiting:
            chosen = min(waiting, key=lambda waiter: (waiter.peer in self._stalled, self._held[waiter.peer]))
            self._waiting.remove(chosen)
            self._held[chosen.peer] += 1
            chosen.admitted.set_result(None)

    def _remember(self, peer: str) -> None:
        self._stalled[peer] = None
        if len(self._stalled) > _MOST_STALLED:
            del self._stalled[next(iter(self._stalled))]

    def _make_room(self) -> None:
        """Ends as many arrivals as others wait for their places: first those of peers that stalled before, then those
        that have had their time."""
        self._next_look = None
        slow = [one for one in self._arriving if not one.is_leaving]
        wanted = max(0, len(self._waiting) - (len(self._arriving) - len(slow)))
        first = sum(waiter.peer not in self._stalled for waiter in self._waiting)
        known = [one for one in slow if one.peer in self._stalled][: min(first, wanted)]
        had_their_time = time.monotonic() - PATIENCE
        others = [one for one in slow if one not in known and one.begin <= had_their_time]
        for one in [*known, *others][:wanted]:
            one.displaced = True
            one.timeout.reschedule(asyncio.get_running_loop().time())
        self._look_again()

    def _look_again(self) -> None:
        oldest = next((one for one in self._arriving if not one.is_leaving), None)
        if self._waiting and oldest is not None and self._next_look is None:
            left = max(0.0, oldest.begin + PATIENCE - time.monotonic())
            self._next_look = asyncio.get_running_loop().call_later(left + 0.001, self._make_room)
