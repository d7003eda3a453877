"""Where the process is in its life, and who may end it. Knows no gRPC: interceptors and `serve` act on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum

from burnish_services.runtime.errors import Unavailable

log = logging.getLogger(__name__)


class Phase(StrEnum):
    """STARTING: bound, loading. SERVING: takes calls. DRAINING: finishes calls, takes none."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """The phase of one server, the wish to stop it, and the failure that caused the wish, if any."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.draining = asyncio.Event()
        self.stop_requested = asyncio.Event()
        self.failure: BaseException | None = None
        # Tells the world, before the first call is refused.
        self.before_drain: Callable[[], None] = lambda: None

    def serving(self) -> None:
        """Starting is over."""
        self.phase = Phase.SERVING

    def drain(self) -> None:
        """From now on calls are refused and streams end."""
        self.before_drain()
        self.phase = Phase.DRAINING
        self.draining.set()

    def request_stop(self, why: str) -> None:
        """Asks for a graceful stop; further wishes change nothing."""
        if not self.stop_requested.is_set():
            log.info("stopping", extra={"why": why})
            self.stop_requested.set()

    def fail(self, error: BaseException) -> None:
        """Asks for a stop because the process can't serve any more; the first failure is kept."""
        if self.failure is None and self.phase is not Phase.DRAINING:
            self.failure = error
            # Not only `stop`: between now and the stop no call may reach the dead engine.
            self.drain()
        self.request_stop(str(error))

    def check_serving(self) -> None:
        """Raises Unavailable unless calls are taken now."""
        if self.phase is Phase.STARTING:
            raise Unavailable(
                "STARTING", "the server is still loading its model; wait until its health is SERVING", retry_after=2.0
            )
        if self.failure is not None:
            raise Unavailable("ENGINE_DEAD", f"the engine has died ({self.failure}); ask another replica")
        if self.phase is Phase.DRAINING:
            raise Unavailable("DRAINING", "the server is stopping; send the call again, to another replica")
