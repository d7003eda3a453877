"""One gRPC server with a set of roles: built, started, drained. Signals and exit codes are `serve.py`'s.

A stop, in order: health says NOT_SERVING, new calls are refused, streams end, running calls finish within the
grace, roles close, engines close; metrics tell of it until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from burnish_services.engine.adapters import MergedModels
from burnish_services.engine.base import Engine, EngineSettings
from burnish_services.engine.model_cache import ModelCache
from burnish_services.engine.model_store import ModelStore
from burnish_services.engine.places import Roots
from burnish_services.runtime import health
from burnish_services.runtime.admission import Admission
from burnish_services.runtime.authentication import Authentication
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.engines import EnginePool
from burnish_services.runtime.files import write_whole
from burnish_services.runtime.intake import Intake, IntakeLimits
from burnish_services.runtime.interceptors import CallGuard
from burnish_services.runtime.lifecycle import Lifecycle
from burnish_services.runtime.listening import BindError, listen
from burnish_services.runtime.observability import Observability
from burnish_services.runtime.probing import ProbePort
from burnish_services.runtime.role import Role, RoleContext, create_role
from burnish_services.runtime.tls import TlsFiles, server_credentials
from burnish_services.runtime.tokens import Tokens

log = logging.getLogger(__name__)

EngineFactory = Callable[[EngineSettings], Engine]


class AccessError(RuntimeError):
    """The files that say who may call cannot be used."""


# Calls at a time on one connection; further ones wait at the client. SDKs need their window and a watch or two.
_MAX_CALLS_OF_A_CONNECTION = 128
# Seconds after which a connection without calls is closed; clients connect again where they have one.
_MAX_IDLE = 1800.0
# Seconds that the calls of a connection which is too old may still take; the longest deadline of the SDK's own.
_AGE_GRACE = 3600.0


def channel_options(
    max_message_bytes: int, max_connection_age: float = 0.0, keepalive: float = 60.0, max_pending: int = 5
) -> list[tuple[str, int]]:
    """Options of the listening side. A client may ping every 10 s or more, calls or none, without being sent
    away: gRPC's default of 300 s ends connections in the middle of long calls. The server itself pings every
    `keepalive` seconds and ends a connection on which nothing comes back for 20 s, or as long where that is less."""
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", round(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(min(20.0, keepalive) * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_concurrent_streams", _MAX_CALLS_OF_A_CONNECTION),
        ("grpc.max_connection_idle_ms", round(_MAX_IDLE * 1000)),
        # Calls that have come and that the event loop, having too much to do, has not looked at: gRPC itself drops
        # those, which costs the loop nothing. Else all would be looked at when nobody waits for them any more.
        ("grpc.server_max_unrequested_time_in_server", max_pending),
        # What may come of a message that nobody asks for yet must not grow with the connection's speed, up to megabytes
        # a call; once it is asked for (runtime/intake.py), gRPC makes room for all of it.
        ("grpc.http2.bdp_probe", 0),
        # No compressed messages (bit 0: as it is): a few bytes could become gigabytes before anything counts them.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Two servers on one port would share calls by chance instead of the second one failing.
        ("grpc.so_reuseport", 0),
    ]
    if max_connection_age > 0:
        options.append(("grpc.max_connection_age_ms", round(max_connection_age * 1000)))
        options.append(("grpc.max_connection_age_grace_ms", round(_AGE_GRACE * 1000)))
    return options


class Server:
    """Roles behind one port."""

    def __init__(
        self, settings: ServerSettings, create_engine: EngineFactory, *, version: str, roles: tuple[Role, ...] = ()
    ) -> None:
        """`roles` are added to those that the settings name; tests put their own there. Raises AccessError, and what
        creating a role does."""
        self.settings = settings
        self.lifecycle = Lifecycle()
        self._cache = ModelCache(settings.model_cache, settings.model_cache_bytes)
        self.models = ModelStore(self._cache, settings.roots)
        merged = MergedModels(settings.state_dir / "merged", _with_cache(settings))
        self.engines = EnginePool(
            create_engine, engine_settings(settings), settings.engine_restarts, self.models, merged
        )
        context = RoleContext(settings=settings, engines=self.engines, models=self.models, version=version)
        self.roles = (*(create_role(name, context) for name in settings.roles), *roles)
        self.address = ""
        self.admissions = {
            role.service_full_name: Admission(
                role.name, role.max_concurrent_requests, role.max_tokens_in_flight, role.max_concurrent_streams
            )
            for role in self.roles
        }
        self.observability = Observability(settings, version, self.roles, self.admissions, self.lifecycle, self.engines)
        self._health = health.HealthServicer([role.service_full_name for role in self.roles])
        self.lifecycle.before_drain = self._health.set_stopping
        self.probes = (
            None if settings.health_port is None else ProbePort(self._health, settings.host, settings.health_port)
        )
        try:
            self._credentials = _credentials(settings)
            self._server = self._build()
        except (OSError, ValueError) as error:
            raise AccessError(str(error)) from error
        self._stopped = False

    def _build(self) -> grpc.aio.Server:
        reporter = self.observability.reporter
        self.intake = Intake(intake_limits(self.settings), reporter)
        guard = CallGuard(self.lifecycle, self.admissions, reporter, self.settings.max_message_bytes)
        interceptors: list[grpc.aio.ServerInterceptor] = [self.intake, guard]
        if self.settings.tokens is not None:
            roles = {role.service_full_name: role.name for role in self.roles}
            tokens = Tokens.of(self.settings.tokens)
            # First of all: who may not call takes no place of those who may.
            interceptors.insert(0, Authentication(tokens, roles, reporter, guard_health=self.settings.guard_health))
        server = grpc.aio.server(
            interceptors=interceptors,
            options=channel_options(
                self.settings.max_message_bytes,
                self.settings.max_connection_age,
                self.settings.keepalive,
                self.settings.max_pending,
            ),
        )
        for role in self.roles:
            role.add_to_server(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [*(role.service_full_name for role in self.roles), health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, server)
        return server

    async def start(self) -> None:
        """Listens, loads, announces SERVING. Raises BindError, ModelLoadError, EngineDead or what a role
        raises; `stop` must be called then, too."""
        self._remove_ready_file()
        settings = self.settings
        self.address = listen(
            self._server, settings.host, settings.port, option="--port", credentials=self._credentials
        )
        self._show()
        if self.probes is not None:
            await self.probes.open()
        await self._server.start()
        await asyncio.to_thread(self._cache.remove_unfinished)
        log.info("listening", extra={"address": self.address, "roles": ",".join(self._role_names())})
        await self.engines.start()
        for role in self.roles:
            await role.start()
        self.lifecycle.serving()
        self._health.set_serving()
        self._write_ready_file()
        log.info("serving", extra={"address": self.address, "roles": ",".join(self._role_names())})

    async def stop(self, grace: float | None = None) -> None:
        """Drains and closes; `grace` in seconds, else the settings'. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        self._remove_ready_file()
        self.lifecycle.drain()
        self.models.close()
        await self._server.stop(self.settings.grace if grace is None else grace)
        for role in self.roles:
            await role.close()
        await self.engines.close()
        if self.probes is not None:
            await self.probes.close()
        await asyncio.to_thread(self.observability.close)
        log.info("stopped")

    def _show(self) -> None:
        """Opens the port of the metrics, where they are wanted. Raises BindError."""
        try:
            self.observability.start()
        except OSError as error:
            raise BindError(
                f"cannot serve metrics on port {self.settings.metrics_port}: {error}; choose another --metrics-port (0 "
                "takes a free one) or --metrics-host"
            ) from error
        if self.observability.metrics_address:
            log.info("metrics", extra={"address": self.observability.metrics_address})

    def _role_names(self) -> list[str]:
        return [role.name for role in self.roles]

    def _write_ready_file(self) -> None:
        path = self.settings.ready_file
        if path is not None:
            ready = {"pid": os.getpid(), "address": self.address, "roles": self._role_names()}
            if self.observability.metrics_address:
                ready["metrics"] = self.observability.metrics_address
            if self.probes is not None:
                ready["health"] = self.probes.address
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(ready).encode() + b"\n", durable=False)

    def _remove_ready_file(self) -> None:
        if self.settings.ready_file is not None:
            self.settings.ready_file.unlink(missing_ok=True)


def _with_cache(settings: ServerSettings) -> Roots:
    """The roots, and the cache of models, where the adapters in it name their bases."""
    roots = settings.roots
    return Roots() if roots.readable is None else replace(roots, readable=(*roots.readable, settings.model_cache))


def _credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return server_credentials(TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca))


def intake_limits(settings: ServerSettings) -> IntakeLimits:
    """What the process takes in at a time."""
    return IntakeLimits(
        max_calls=settings.max_calls,
        max_bytes=settings.max_bytes_in_flight,
        max_message_bytes=settings.max_message_bytes,
        receive_seconds=settings.receive_timeout,
    )


def engine_settings(settings: ServerSettings) -> EngineSettings:
    """The engine's part of the process's settings; the pool fills in the task."""
    return EngineSettings(
        model=settings.model,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        memory_bytes=None if settings.memory_mib is None else settings.memory_mib * 2**20,
        gpu_memory_utilization=settings.engine_memory_utilization,
        tensor_parallel_size=settings.tensor_parallel_size,
        batch_tokens=settings.batch_tokens,
        compile=settings.compile,
        cpu_cores=settings.cpu_cores,
        chat_template=settings.chat_template,
    )


@contextlib.asynccontextmanager
async def running(
    settings: ServerSettings, create_engine: EngineFactory, *, version: str = "test", roles: tuple[Role, ...] = ()
) -> AsyncIterator[Server]:
    """A started server for the length of a block, for tests and embedding in other programs."""
    server = Server(settings, create_engine, version=version, roles=roles)
    try:
        await server.start()
        yield server
    finally:
        await server.stop(grace=0.5)
