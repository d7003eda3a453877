"""The window of requests on the way: halved by refusals, widened by replies, never more than allowed."""

from __future__ import annotations

import asyncio

from burnish._window import Window


async def test_it_holds_back_what_is_too_much() -> None:
    window, inside, most = Window(3), 0, 0

    async def request() -> None:
        nonlocal inside, most
        async with window:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            inside -= 1

    await asyncio.gather(*(request() for _ in range(20)))
    assert (most, inside) == (3, 0)


async def test_refusals_halve_it_and_replies_widen_it_again() -> None:
    window = Window(16)
    seen = [window.limit]
    for _ in range(6):
        window.refused()
        seen.append(window.limit)
    assert seen == [16, 8, 4, 2, 1, 1, 1]
    replies = 0
    while window.limit < 16:
        window.answered()
        replies += 1
    assert 100 < replies < 150, "one more per window's worth of replies: about 1 + 2 + … + 15"
    for _ in range(100):
        window.answered()
    assert window.limit == 16


async def test_whoever_waits_gets_in_when_others_leave() -> None:
    window = Window(2)
    window.refused()

    async def enter() -> None:
        async with window:
            pass

    async with window:
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


async def test_a_cancelled_wait_takes_no_place() -> None:
    window = Window(1)

    async def enter() -> None:
        async with window:
            pass

    async with window:
        waiting = asyncio.create_task(enter())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.wait_for(enter(), 1)
