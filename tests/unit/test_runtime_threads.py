"""Blocking work in a thread learns when its caller is gone."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from burnish_services.runtime.threads import while_wanted


async def test_work_is_told_when_its_caller_is_cancelled() -> None:
    begun, told = threading.Event(), threading.Event()

    def work(unwanted: threading.Event) -> None:
        begun.set()
        if unwanted.wait(30):
            told.set()

    with ThreadPoolExecutor(1) as executor:
        task = asyncio.ensure_future(while_wanted(executor, work))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert told.is_set()


async def test_work_that_is_wanted_has_its_result_or_its_error() -> None:
    def fail(unwanted: threading.Event) -> None:
        raise ValueError("no")

    with ThreadPoolExecutor(1) as executor:
        assert await while_wanted(executor, threading.Event.is_set) is False
        with pytest.raises(ValueError, match="no"):
            await while_wanted(executor, fail)
