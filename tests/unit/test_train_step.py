"""Step `train`: how it lets go of the events that it follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from burnish.coordinator.steps.train import _until_stopped
from tests.waiting import until


@pytest.mark.parametrize("how", ["cancelled", "stopped"])
async def test_a_wait_that_ends_leaves_nobody_waiting_for_events(how: str) -> None:
    waiting, closed = False, False
    stop = asyncio.Event()

    async def events() -> AsyncGenerator[Any, None]:
        nonlocal waiting, closed
        try:
            yield 1
            waiting = True
            await asyncio.sleep(60)
        finally:
            closed = True

    async def follow() -> list[Any]:
        async with aclosing(events()) as following:
            return [event async for event in _until_stopped(following, stop)]

    task = asyncio.create_task(follow())
    await until(lambda: waiting)
    if how == "stopped":
        stop.set()
        assert await task == [1]
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert closed
