"""How much a service works at a time: calls, and tokens in its engines. Beyond that a call is refused at once, with a
hint when to come back: queues belong to the client, which can go to another replica, not into this process's memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from burnish_services.runtime.errors import Overloaded

_SHORTEST_WAIT = 0.1  # seconds
_LONGEST_WAIT = 30.0


class Admission:
    """Slots of one service, and its budget of tokens where it has one."""

    def __init__(self, service: str, limit: int, max_tokens: int | None = None, max_streams: int = 256) -> None:
        self.tokens = None if max_tokens is None else TokenBudget(service, max_tokens)
        self._service = service
        self._limit = limit
        self._running = 0
        self._typical_seconds = 1.0
        self._max_streams = max_streams
        self._streams = 0

    @property
    def running(self) -> int:
        """Calls in progress."""
        return self._running

    @property
    def limit(self) -> int:
        """Most calls at a time."""
        return self._limit

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a slot for the block. Raises Overloaded where none is free."""
        if self._running >= self._limit:
            raise self._full()
        self._running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._running -= 1
            # A moving average: the wait suggested should follow the load, not the last call.
            self._typical_seconds += 0.2 * (time.monotonic() - began - self._typical_seconds)

    def _full(self) -> Overloaded:
        return Overloaded(
            "TOO_MANY_REQUESTS",
            f"{self._service} works {self._limit} requests at a time and all are taken; wait and retry, keep fewer in "
            "flight (Limits.max_concurrent_requests), or add replicas",
            retry_after=self._wait(),
        )

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Counts a watch or an upload for the block: they last, so that they would leave no slot to anybody. Raises
        Overloaded where there are too many."""
        if self._streams >= self._max_streams:
            raise Overloaded(
                "TOO_MANY_STREAMS",
                f"{self._service} has {self._streams} watches and uploads in progress and takes no more; wait and retry"
                ", or keep fewer open (Limits.max_concurrent_streams)",
            )
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def _wait(self) -> float:
        return min(max(self._typical_seconds / self._limit, _SHORTEST_WAIT), _LONGEST_WAIT)


class TokenBudget:
    """Prompt tokens that a service may have in its engines at a time. A call that alone asks for more is taken while
    nothing else is there, or it could never be."""

    def __init__(self, service: str, limit: int) -> None:
        self._service = service
        self._limit = limit
        self._held = 0
        self._rate = 0.0  # tokens per second that have been coming free

    @property
    def held(self) -> int:
        """Tokens in the engines now."""
        return self._held

    @property
    def limit(self) -> int:
        """Most tokens at a time."""
        return self._limit

    def check(self, tokens: int) -> None:
        """Raises Overloaded where `tokens` more are too many."""
        if self._held and self._held + tokens > self._limit:
            raise Overloaded(
                "TOO_MANY_TOKENS",
                f"{self._service} has {self._held} of at most {self._limit} tokens in progress and cannot take "
                f"{tokens} more; wait and retry, send smaller batches (Limits.max_tokens_in_flight), or add replicas",
                retry_after=self._wait(tokens),
            )

    @contextmanager
    def holding(self, tokens: int) -> Iterator[None]:
        """Counts `tokens` as in progress for the block."""
        self._held += tokens
        began = time.monotonic()
        try:
            yield
        finally:
            self._held -= tokens
            rate = tokens / max(time.monotonic() - began, 1e-3)
            self._rate += 0.2 * (rate - self._rate)

    def _wait(self, tokens: int) -> float:
        if not self._rate:
            return 1.0
        return min(max((self._held + tokens - self._limit) / self._rate, _SHORTEST_WAIT), _LONGEST_WAIT)
