"""How many calls a service works at a time. Beyond that a call is refused at once, with a hint when to come
back: queues belong to the client, which can go to another replica, not into this process's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from burnish_services.runtime.errors import Overloaded

_SHORTEST_WAIT = 0.1  # seconds
_LONGEST_WAIT = 30.0


class Admission:
    """Slots of one service."""

    def __init__(self, service: str, limit: int) -> None:
        self._service = service
        self._limit = limit
        self._running = 0
        self._typical_seconds = 1.0

    @property
    def running(self) -> int:
        """Calls in progress."""
        return self._running

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a slot for the block. Raises Overloaded where none is free."""
        if self._running >= self._limit:
            raise Overloaded(
                "TOO_MANY_REQUESTS",
                f"{self._service} works {self._limit} requests at a time and all are taken; wait and retry, keep "
                "fewer in flight (Limits.max_concurrent_requests), or add replicas",
                retry_after=self._wait(),
            )
        self._running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._running -= 1
            # A moving average: the wait suggested should follow the load, not the last call.
            self._typical_seconds += 0.2 * (time.monotonic() - began - self._typical_seconds)

    def _wait(self) -> float:
        return min(max(self._typical_seconds / self._limit, _SHORTEST_WAIT), _LONGEST_WAIT)
