"""The standard health protocol, grpc.health.v1, for the process as a whole ("") and for each service.

grpc_health's own asyncio servicer is not used: when one of several watchers of a service leaves, it forgets
the others, and its watch streams stay open during a drain until the grace is over. Here a watch ends once it
has told that the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
CHECK = f"/{SERVICE_NAME}/Check"  # the method that answers at once; `Watch` lasts
_Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """All services of a process become and cease to be SERVING together."""

    def __init__(self, services: Sequence[str]) -> None:
        self._known = frozenset(["", *services])
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def set_serving(self) -> None:
        """Announces SERVING."""
        self._serving = True
        self._announce()

    def set_stopping(self) -> None:
        """Announces NOT_SERVING for good; watch streams end with it."""
        self._serving = False
        self._ended = True
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _current(self) -> health_pb2.HealthCheckResponse:
        return _Status(status=_Status.SERVING if self._serving else _Status.NOT_SERVING)

    async def Check(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that this process does not run."""
        if request.service not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"this process does not run {request.service!r}")
        return self._current()

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now and whenever it changes; SERVICE_UNKNOWN for a service that this process does not
        run."""
        last: health_pb2.HealthCheckResponse | None = None
        while True:
            # Before the status: what changes while one is being sent must be told too.
            changed, ended = self._changed, self._ended
            known = request.service in self._known
            status = self._current() if known else _Status(status=_Status.SERVICE_UNKNOWN)
            if status != last:
                yield status
                last = status
            if ended:
                return
            await changed.wait()
