"""Waiting for something to come true, instead of a guess at how long it takes on a busy machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Returns once `condition` holds; fails the test where it does not within so many seconds."""
    give_up, pause = time.monotonic() + seconds, 0.001
    while not condition():
        assert time.monotonic() < give_up, f"did not come true within {seconds} s"
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.02)  # what is waited for may need this very core
