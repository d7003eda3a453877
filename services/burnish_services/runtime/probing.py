"""The port for probes: grpc.health.v1 in plaintext and without login, and nothing else.

Kubernetes' gRPC probes speak neither TLS nor tokens. Whoever reaches the port learns whether the server serves, which
the main port tells anybody too unless it is guarded.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from burnish_services.runtime.health import HealthServicer
from burnish_services.runtime.listening import listen

log = logging.getLogger(__name__)

# Asked for by this name, the answer is SERVING whenever the process answers at all: also while it loads a model or
# drains, when a probe that would end it must not.
LIVENESS = "liveness"

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4096),  # the name of a service
    ("grpc.max_concurrent_streams", 16),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.max_metadata_size", 4096),
    ("grpc.server_max_unrequested_time_in_server", 5),
    ("grpc.compression_enabled_algorithms_bitset", 1),
]


class ProbeServicer(health_pb2_grpc.HealthServicer):
    """The states of `health`, and LIVENESS. Nothing that lasts: who asks nobody who they are keeps nothing for them."""

    def __init__(self, health: HealthServicer) -> None:
        self._health = health

    async def Check(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that this process does not run."""
        if request.service == LIVENESS:
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return await self._health.Check(request, context)

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """UNIMPLEMENTED, as the protocol allows."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this port answers Check; watch health on the main port")
        yield  # type: ignore[unreachable]  # what makes this a stream


class ProbePort:
    """The port, open from `open` to `close`; `address` is where it is, empty before."""

    def __init__(self, health: HealthServicer, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._server = grpc.aio.server(options=_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(ProbeServicer(health), self._server)
        self.address = ""

    async def open(self) -> None:
        """Listens and answers. Raises BindError."""
        self.address = listen(self._server, self._host, self._port, option="--health-port")
        await self._server.start()
        log.info("health", extra={"address": self.address})

    async def close(self) -> None:
        """Ends it at once."""
        await self._server.stop(None)
