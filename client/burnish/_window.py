"""How many requests a client keeps on the way to one service: as many as the service takes, found out by itself.

Additive increase, multiplicative decrease: each RESOURCE_EXHAUSTED halves the window, each reply widens it by one
request per round trip, between one request and what the options allow.
"""

from __future__ import annotations

import asyncio
from types import TracebackType


class Window:
    """Held, as an `async with`, for the time of one request with all its retries."""

    def __init__(self, largest: int) -> None:
        self._largest = float(largest)
        self._limit = self._largest
        self._inside = 0
        self._changed = asyncio.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be on the way now, >= 1."""
        return int(self._limit)

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside < self.limit)
            self._inside += 1

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def refused(self) -> None:
        """The service had too much to do: half as many from now on."""
        self._limit = max(self._limit / 2, 1.0)

    def answered(self) -> None:
        """The service kept up: one more, once a window's worth of requests have been answered."""
        self._limit = min(self._limit + 1.0 / self._limit, self._largest)
