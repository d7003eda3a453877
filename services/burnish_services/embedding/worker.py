"""Blocking work of the embedding service, off the event loop: one thread, so one thing at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from burnish_services.runtime.threads import while_wanted

P = ParamSpec("P")
R = TypeVar("R")


class Abandoned(Exception):
    """Nobody waits for the result any more."""


class Worker:
    """Runs functions in order, one after the other, in a thread of its own.

    Unlike a lock around `asyncio.to_thread`, this excludes a second writer even while the call that began the first
    write has been cancelled: the write goes on in the thread, and the next one waits for it.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result. Where the caller is cancelled, a function that has begun goes on to its end."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def run_while_wanted(self, function: Callable[[Callable[[], None]], R]) -> R:
        """Runs `function(check)`; `check` raises Abandoned in it once the caller is cancelled."""

        def checked(unwanted: threading.Event) -> R:
            def check() -> None:
                if unwanted.is_set():
                    raise Abandoned

            return function(check)

        return await while_wanted(self._executor, checked)

    async def close(self) -> None:
        """Waits for what runs, and drops what has not begun; safe to call twice."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)
