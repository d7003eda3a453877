"""Blocking work off the event loop, in a thread that learns when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

ResultT = TypeVar("ResultT")


async def while_wanted(executor: Executor, work: Callable[[threading.Event], ResultT]) -> ResultT:
    """Runs `work(unwanted)` in one of the executor's threads; `unwanted` is set once the caller has been cancelled, and
    what `work` does then comes to nothing."""
    unwanted = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, unwanted)
    except asyncio.CancelledError:
        unwanted.set()
        raise
