"""How often an engine whose process ended may be started anew before it is given up."""

from __future__ import annotations

import time
from collections import deque

_WINDOW_SECONDS = 600.0


class Restarts:
    """At most `limit` restarts within ten minutes: what dies more often will die again, and whoever supervises the
    server should know."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: deque[float] = deque()
        self.total = 0  # since the server began

    def take(self) -> bool:
        """Whether one more is allowed; counts it if so."""
        now = time.monotonic()
        while self._taken and now - self._taken[0] > _WINDOW_SECONDS:
            self._taken.popleft()
        if len(self._taken) >= self._limit:
            return False
        self._taken.append(now)
        self.total += 1
        return True
