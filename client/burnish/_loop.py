"""The background event loop on which the synchronous client runs the asynchronous one. One thread per process."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from burnish._errors import UsageError

T = TypeVar("T")

_END = object()
_CANCEL_SECONDS = 2.0


class BackgroundLoop:
    """An event loop in a daemon thread; its methods are called from other threads."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_quiet)
        self._thread = threading.Thread(target=self._run, name="burnish-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and waits for its result. An interrupt (Ctrl-C) here cancels it there, and
        is passed on once it has ended."""
        self._check(coroutine)
        ended = threading.Event()
        future: Future[T] = asyncio.run_coroutine_threadsafe(_signalling(coroutine, ended), self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                ended.wait(_CANCEL_SECONDS)
            raise

    def iterate(self, generator: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items of an asynchronous generator, each fetched when asked for; closing the iterator closes it."""
        try:
            while (item := self.run(_next(generator))) is not _END:
                yield cast("T", item)
        finally:
            if not sys.is_finalizing():  # the loop's thread is gone by then
                self.run(generator.aclose())

    def _check(self, coroutine: Coroutine[Any, Any, T]) -> None:
        problem = ""
        if os.getpid() != self._pid:
            problem = "this Client was made before this process was forked; make it in the new process, or use spawn"
        elif threading.current_thread() is self._thread:
            problem = "Client was called from its own event loop; use AsyncClient there"
        if problem:
            coroutine.close()
            raise UsageError(problem)


async def _signalling(coroutine: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    try:
        return await coroutine
    finally:
        ended.set()


async def _next(generator: AsyncGenerator[T, None]) -> T | object:
    return await anext(generator, _END)


def _quiet(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # With several event loops in a process, grpc.aio wakes them all; those that come late find nothing to read.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


_shared: BackgroundLoop | None = None
_lock = threading.Lock()


def shared_loop() -> BackgroundLoop:
    """The loop of this process, started at first use (anew in a forked child)."""
    global _shared
    with _lock:
        if _shared is None or _shared._pid != os.getpid():
            _shared = BackgroundLoop()
        return _shared
