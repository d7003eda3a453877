"""Who may send now: so many at a time, the peer with the fewest first, and those that stalled behind all others."""

from __future__ import annotations

import asyncio

import pytest

from burnish_services.runtime import arrivals
from burnish_services.runtime.arrivals import Places, Stalled
from tests.waiting import until


async def never() -> str:
    await asyncio.Event().wait()
    return ""


async def at_once() -> str:
    return "here"


class Sender:
    """One message of a peer, which arrives when it is told to."""

    def __init__(self, to: Places, peer: str) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.task = asyncio.ensure_future(to.arrived(peer, self._send))

    async def _send(self) -> str:
        self.begun.set()
        await self.go.wait()
        return "here"

    async def done(self) -> None:
        self.go.set()
        assert await self.task == "here"


async def test_no_more_than_there_are_places_for() -> None:
    two = Places(2, 60)
    senders = [Sender(two, "a") for _ in range(3)]
    await until(lambda: senders[1].begun.is_set())
    await asyncio.sleep(0.01)
    assert not senders[2].begun.is_set()
    await senders[0].done()
    await until(lambda: senders[2].begun.is_set())
    for sender in senders[1:]:
        await sender.done()
    assert await two.arrived("a", at_once) == "here"


async def test_who_comes_while_another_times_out_waits_for_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PATIENCE", 0)
    one = Places(1, 60)
    first = asyncio.ensure_future(one.arrived("a", never))
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(one.arrived("b", at_once))
    one._arriving[0].timeout._on_timeout()  # type: ignore[attr-defined]  # as the loop does before the second enters
    assert await second == "here"
    with pytest.raises(Stalled):
        await first
    assert await one.arrived("c", at_once) == "here"
    assert not one._held.total()


async def test_who_comes_while_several_time_out_costs_nobody_else_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "PATIENCE", 0)
    eight = Places(8, 60)
    others = [asyncio.ensure_future(eight.arrived(f"peer {number}", never)) for number in range(8)]
    await asyncio.sleep(0.01)
    late = asyncio.ensure_future(eight.arrived("late", at_once))
    for one in eight._arriving[:3]:
        one.timeout._on_timeout()  # type: ignore[attr-defined]
    assert await late == "here"
    assert [one.done() for one in others] == [True] * 3 + [False] * 5
    for one in others:
        one.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def test_the_peer_with_the_fewest_is_next() -> None:
    two = Places(2, 60)
    busy = [Sender(two, "busy") for _ in range(4)]
    other = Sender(two, "other")
    await until(lambda: busy[1].begun.is_set())
    await busy[0].done()
    await until(lambda: other.begun.is_set())
    assert not busy[2].begun.is_set(), "it came first, but its peer has a place already"
    for sender in (other, *busy[1:]):
        await sender.done()


async def test_who_leaves_while_waiting_takes_no_place_along() -> None:
    one = Places(1, 60)
    first, second, third = (Sender(one, name) for name in "abc")
    await until(first.begun.is_set)
    second.task.cancel()
    await asyncio.gather(second.task, return_exceptions=True)
    # Also one that is cancelled in the moment in which it is given its place.
    first.go.set()
    await first.task
    third.task.cancel()
    await asyncio.gather(third.task, return_exceptions=True)
    assert await asyncio.wait_for(one.arrived("d", at_once), 1) == "here"


async def test_a_message_has_its_time_and_less_where_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stalled) as caught:
        await Places(1, 0.01).arrived("a", never)
    assert not caught.value.displaced
    monkeypatch.setattr(arrivals, "PATIENCE", 0.05)
    one = Places(1, 60)
    slow = asyncio.ensure_future(one.arrived("slow", never))
    await asyncio.sleep(0)
    assert await one.arrived("other", at_once) == "here"
    with pytest.raises(Stalled) as caught:
        await slow
    assert caught.value.displaced


async def test_who_stalled_goes_last_and_makes_room_at_once() -> None:
    one = Places(1, 0.05)
    with pytest.raises(Stalled):
        await one.arrived("slow", never)
    one._seconds = 60
    again = asyncio.ensure_future(one.arrived("slow", never))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(one.arrived("good", at_once), arrivals.PATIENCE / 2) == "here"
    with pytest.raises(Stalled):
        await again
    # Once a message of its own has arrived it is like the others.
    assert await one.arrived("slow", at_once) == "here"
    assert not one._stalled
