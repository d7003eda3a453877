"""Clients that leave in the middle of a call, and what gRPC would keep of each of them for good.

For every operation on a call (to receive the message, to send the reply) gRPC's asyncio side takes memory, 100 to 500
bytes, which it gives back only where the operation succeeds and whoever awaits it is not cancelled meanwhile. That is a
defect of its own, which 1.85 still has; a server whose clients are impatient grows by it without end. So here no
operation is begun for a client that is known to be gone, and none is abandoned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

# From word that has come to gRPC's poller: it is read, wakes the task that waits for it, and that cancels the call's.
_ROUNDS = 3
_GRPC = "grpc._cython.cygrpc"
_BROKEN_OFF = 'Failed "execute_batch"'


async def to_its_end(operation: Callable[[], Awaitable[T]]) -> T:
    """What `operation` returns. It goes on where the caller is cancelled; gRPC ends it together with the call."""
    going_on = asyncio.ensure_future(operation())
    # asyncio would complain of what nobody asks for any more: that the call is over.
    going_on.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(going_on)


async def if_still_there() -> None:
    """To be awaited before something is sent. Has the event loop take up what it has not looked at yet: where that has
    word that the client of the call at hand is gone, gRPC cancels the call's task, and so this. Costs no time where
    there is nothing to take up."""
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)


class AsDepartures(logging.Filter):
    """Tells at DEBUG, and as what it is, what gRPC tells as an ERROR with a traceback: that a reply or a refusal was on
    its way while its client left. What else gRPC complains of stays."""

    @classmethod
    def install(cls) -> None:
        """Puts it before gRPC's own log, once."""
        grpc_log = logging.getLogger(_GRPC)
        if not any(isinstance(one, cls) for one in grpc_log.filters):
            grpc_log.addFilter(cls())

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is told as it is."""
        error = record.exc_info[1] if record.exc_info else None
        if type(error).__name__ != "ExecuteBatchError" or not str(error).startswith(_BROKEN_OFF):
            return True
        log.debug("client gone before it was answered", extra={"grpc": record.getMessage()})
        return False
