"""The port for probes: health alone, in plaintext and for anybody, whatever the main port asks for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.listening import BindError
from burnish_services.runtime.role import Role
from burnish_services.runtime.server import Server, running
from tests.service.support import failure_of
from tests.service.test_access import Authority, write_tokens
from tests.waiting import until

SCORING = "burnish.api.scoring.v1.ScoringService"
Status = health_pb2.HealthCheckResponse


class Held(Role):
    """A service that takes as long to start, and to close, as the test says; as one with a large model does."""

    name = "held"
    service_full_name = "test.Held"

    def __init__(self) -> None:
        self.may_start, self.may_close = asyncio.Event(), asyncio.Event()

    def add_to_server(self, server: grpc.aio.Server) -> None:
        pass

    async def start(self) -> None:
        await self.may_start.wait()

    async def close(self) -> None:
        await self.may_close.wait()


async def state(address: str, service: str = "") -> int:
    """What a kubelet's probe sees, with a connection of its own."""
    async with grpc.aio.insecure_channel(address) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=service), timeout=5
        )
        return int(reply.status)


@pytest.fixture
async def guarded(settings: ServerSettings, tmp_path: Path) -> AsyncIterator[Server]:
    """TLS, certificates of clients, tokens, and health guarded on the main port."""
    authority = Authority(tmp_path / "pki")
    certificate, key = authority.issue()
    update = {
        "tls_cert": certificate,
        "tls_key": key,
        "tls_client_ca": authority.root,
        "tokens": write_tokens(tmp_path / "tokens.toml", ["everything"]),
        "guard_health": True,
        "health_port": 0,
    }
    async with running(settings.model_copy(update=update), partial(create_engine, "fake")) as server:
        yield server


async def test_probes_pass_without_certificate_and_token_while_the_main_port_asks_for_both(guarded: Server) -> None:
    assert guarded.probes is not None
    for service in ("", SCORING, "burnish.api.rewriting.v1.RewritingService", "liveness"):
        assert await state(guarded.probes.address, service) == Status.SERVING
    with pytest.raises(grpc.aio.AioRpcError):
        await state(guarded.address)
    failure = await failure_of(state(guarded.probes.address, "burnish.api.training.v1.TrainingService"))
    assert failure.code is grpc.StatusCode.NOT_FOUND


async def test_nothing_but_health_is_there(guarded: Server) -> None:
    assert guarded.probes is not None
    async with grpc.aio.insecure_channel(guarded.probes.address) as channel:
        scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        failure = await failure_of(scoring.ScoreSamples(scoring_pb2.ScoreSamplesRequest()))
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        assert (await failure_of(anext(aiter(reflected)))).code is grpc.StatusCode.UNIMPLEMENTED
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await failure_of(anext(aiter(watch)))).code is grpc.StatusCode.UNIMPLEMENTED
        long = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x" * 5000))
        assert (await failure_of(long)).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_loading_and_draining_are_not_serving_but_alive(settings: ServerSettings) -> None:
    held = Held()
    server = Server(
        settings.model_copy(update={"health_port": 0}), partial(create_engine, "fake"), version="test", roles=(held,)
    )
    assert server.probes is not None
    starting = asyncio.ensure_future(server.start())
    await until(lambda: server.probes is not None and server.probes.address != "")
    address = server.probes.address
    assert [await state(address, s) for s in ("", SCORING)] == [Status.NOT_SERVING] * 2
    assert await state(address, "liveness") == Status.SERVING
    held.may_start.set()
    await starting
    assert await state(address, SCORING) == Status.SERVING
    stopping = asyncio.ensure_future(server.stop(grace=0.5))
    await until(lambda: server.lifecycle.draining.is_set())
    assert [await state(address, s) for s in ("", SCORING)] == [Status.NOT_SERVING] * 2
    assert await state(address, "liveness") == Status.SERVING
    held.may_close.set()
    await stopping
    assert (await failure_of(state(address))).code is grpc.StatusCode.UNAVAILABLE


async def test_a_taken_port_is_named_by_its_option(settings: ServerSettings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(BindError, match=rf"127\.0\.0\.1:{taken}.*--health-port"):
            async with running(settings.model_copy(update={"health_port": taken}), partial(create_engine, "fake")):
                pass
