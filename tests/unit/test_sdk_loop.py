"""The background loop: results, errors and interrupts cross the threads, and nothing is left behind."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Iterator

import pytest

from burnish._errors import UsageError
from burnish._loop import BackgroundLoop, shared_loop


@pytest.fixture
def interrupt_soon() -> Iterator[None]:
    """Raises KeyboardInterrupt in the main thread after a moment."""

    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handler)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    yield
    timer.join()
    signal.signal(signal.SIGUSR1, before)


def test_results_and_errors_come_back() -> None:
    async def double(number: int) -> int:
        return 2 * number

    async def fail() -> None:
        raise ZeroDivisionError

    assert shared_loop().run(double(4)) == 8
    with pytest.raises(ZeroDivisionError):
        shared_loop().run(fail())


def test_an_interrupt_ends_the_call_and_is_passed_on(interrupt_soon: None) -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("yes")

    with pytest.raises(KeyboardInterrupt):
        shared_loop().run(long())
    assert ended == ["yes"]


async def count(ended: list[str]) -> AsyncGenerator[int, None]:
    try:
        for number in range(1000):
            yield number
            if number == 2:
                await asyncio.sleep(60)
    finally:
        ended.append("yes")


def test_a_generator_left_early_is_closed() -> None:
    ended: list[str] = []
    iterator = shared_loop().iterate(count(ended))
    assert [next(iterator), next(iterator)] == [0, 1]
    iterator.close()
    assert ended == ["yes"]


def test_an_interrupt_ends_an_iteration(interrupt_soon: None) -> None:
    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        list(shared_loop().iterate(count(ended)))
    assert ended == ["yes"]


def test_one_loop_for_the_process() -> None:
    assert shared_loop() is shared_loop()


def test_a_loop_of_another_process_is_refused() -> None:
    loop = BackgroundLoop()
    loop._pid += 1  # as seen from a forked child
    with pytest.raises(UsageError, match="before this process was forked"):
        loop.run(asyncio.sleep(0))


def test_the_loop_does_not_wait_for_itself() -> None:
    loop = shared_loop()

    async def inside() -> None:
        loop.run(asyncio.sleep(0))

    with pytest.raises(UsageError, match="use AsyncClient there"):
        loop.run(inside())
