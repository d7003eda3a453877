"""What the runtime does around calls: health, reflection, admission, errors, deadlines, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.base import EngineSettings
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import FakeEngine, write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.lifecycle import Phase
from burnish_services.runtime.listening import BindError
from burnish_services.runtime.server import Server, running
from tests.service.support import failure_of, sample
from tests.waiting import until

SCORING = "burnish.api.scoring.v1.ScoringService"
REWRITING = "burnish.api.rewriting.v1.RewritingService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SECRET = "the secret recipe for soup"

new_engine = partial(create_engine, "fake")


def scoring_request(**fields):
    return scoring_pb2.ScoreSamplesRequest(samples=[sample("a", SECRET, "Hi")], **fields)


@pytest.fixture
def slow(tmp_path: Path) -> common_pb2.ModelRef:
    """A model that takes half a second for each engine call."""
    return common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "slow", seed=9, latency_seconds=0.5)))


@pytest.fixture
def at_work(monkeypatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Set once the engine has begun some work, and once work was cancelled in it."""
    begun, ended, work = asyncio.Event(), asyncio.Event(), FakeEngine._work

    async def watched(self: FakeEngine) -> None:
        begun.set()
        try:
            await work(self)
        except asyncio.CancelledError:
            ended.set()
            raise

    monkeypatch.setattr(FakeEngine, "_work", watched)
    return begun, ended


async def check(channel: grpc.aio.Channel, service: str = "") -> int:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return reply.status


async def test_health_is_told_overall_and_per_service(channel) -> None:
    assert [await check(channel, name) for name in ("", SCORING, REWRITING)] == [SERVING] * 3
    failure = await failure_of(check(channel, "burnish.api.training.v1.TrainingService"))
    assert failure.code is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    replies = [reply async for reply in stub.ServerReflectionInfo(iter([request]))]
    listed = {service.name for service in replies[0].list_services_response.service}
    assert {SCORING, REWRITING, "grpc.health.v1.Health"} <= listed


async def test_a_role_that_does_not_run_here_is_unimplemented(settings) -> None:
    alone = settings.model_copy(update={"roles": ("rewriting",)})
    async with running(alone, new_engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        assert await check(channel, REWRITING) == SERVING
        failure = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(scoring_request()))
        assert failure.code is grpc.StatusCode.UNIMPLEMENTED


class SlowStart(FakeEngine):
    """An engine that loads until it is let go."""

    def __init__(self, settings: EngineSettings, go: asyncio.Event) -> None:
        super().__init__(settings)
        self._go = go

    async def start(self) -> None:
        await self._go.wait()
        await super().start()


async def test_while_loading_info_is_answered_and_work_is_not(settings) -> None:
    go = asyncio.Event()
    server = Server(settings, lambda engine_settings: SlowStart(engine_settings, go), version="test")
    starting = asyncio.create_task(server.start())
    while not server.address:  # noqa: ASYNC110 - set in the middle of `start`, without an event
        await asyncio.sleep(0.01)
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        assert await check(channel) == NOT_SERVING
        info = await stub.GetInfo(scoring_pb2.GetInfoRequest())
        assert not info.info.HasField("model")
        failure = await failure_of(stub.ScoreSamples(scoring_request()))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STARTING")
        assert failure.retryable
        assert failure.retry_after
        go.set()
        await starting
        assert await check(channel) == SERVING
        assert (await stub.ScoreSamples(scoring_request())).scores[0].status.code == 0
    await server.stop()


async def test_too_many_requests_are_told_when_to_come_back(settings, monkeypatch) -> None:
    monkeypatch.setenv("BURNISH_SCORING_MAX_CONCURRENT_REQUESTS", "2")
    async with running(settings, new_engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        go = asyncio.Event()
        monkeypatch.setattr(FakeEngine, "_work", lambda _: go.wait())
        taken = [asyncio.ensure_future(stub.ScoreSamples(scoring_request())) for _ in range(2)]
        await until(lambda: server.admissions[SCORING].running == 2)
        failure = await failure_of(stub.ScoreSamples(scoring_request()))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_REQUESTS")
        assert failure.retryable
        assert 0.1 <= failure.retry_after <= 30
        info = await stub.GetInfo(scoring_pb2.GetInfoRequest())
        assert info.info.limits.max_concurrent_requests == 2
        go.set()
        assert [reply.scores[0].status.code for reply in await asyncio.gather(*taken)] == [0, 0]
        assert (await stub.ScoreSamples(scoring_request())).scores


async def test_a_defect_is_internal_with_an_id_that_the_log_knows(channel, monkeypatch, caplog) -> None:
    async def broken(self: FakeEngine, requests: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(FakeEngine, "score", broken)
    failure = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(scoring_request()))
    assert (failure.code, failure.reason, failure.retryable) == (grpc.StatusCode.INTERNAL, "INTERNAL", False)
    assert "defect" not in failure.message
    (logged,) = [record for record in caplog.records if record.message == "unexpected error"]
    assert logged.id in failure.message
    assert logged.exc_info is not None
    assert "ZeroDivisionError" in str(logged.exc_info[1].__class__)


async def test_each_call_is_one_log_line_without_sample_text(channel, caplog) -> None:
    def calls() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.message == "call"]

    with caplog.at_level(logging.INFO, logger="burnish_services"):
        await scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(scoring_request())
        await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(scoring_pb2.ScoreSamplesRequest()))
        # The server writes its line once the reply is out, so the caller may be a moment ahead.
        await until(lambda: len(calls()) == 2, seconds=5)
    good, bad = calls()
    assert (good.method, good.code, good.items) == ("ScoringService/ScoreSamples", "OK", 1)
    assert good.seconds > 0
    assert (bad.code, bad.levelno) == ("INVALID_ARGUMENT", logging.WARNING)
    assert all(SECRET not in str(vars(record)) for record in caplog.records)


async def test_a_deadline_ends_the_work_in_the_engine(server, channel, slow, at_work) -> None:
    stub, (_, ended) = scoring_pb2_grpc.ScoringServiceStub(channel), at_work
    await stub.LoadModel(scoring_pb2.LoadModelRequest(model=slow))
    ended.clear()
    failure = await failure_of(stub.ScoreSamples(scoring_request(), timeout=0.3))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(ended.wait(), 5)
    assert (await stub.ScoreSamples(scoring_request())).scores[0].status.code == 0


async def test_a_cancelled_call_ends_the_work_and_frees_its_slot(settings, slow, at_work, monkeypatch) -> None:
    begun, ended = at_work
    monkeypatch.setenv("BURNISH_SCORING_MAX_CONCURRENT_REQUESTS", "1")
    async with running(settings, new_engine) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        await stub.LoadModel(scoring_pb2.LoadModelRequest(model=slow))
        begun.clear()
        call = stub.ScoreSamples(scoring_request())
        await asyncio.wait_for(begun.wait(), 5)
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        assert (await stub.ScoreSamples(scoring_request())).scores[0].status.code == 0


async def test_a_message_over_the_limit_is_refused(channel) -> None:
    huge = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "x" * (65 * 2**20), "Hi")])
    failure = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(huge))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in failure.message


async def test_a_message_just_under_the_limit_passes(channel) -> None:
    large = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")], model=common_pb2.ModelRef())
    large.samples.append(common_pb2.Sample(id="large", messages=[common_pb2.Message(content="x" * (60 * 2**20))]))
    reply = await scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(large)
    assert [score.status.reason for score in reply.scores] == ["", "BAD_ROLES"]


async def test_an_engine_that_dies_again_and_again_stops_the_server(server, channel, tmp_path: Path) -> None:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    dead = common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "dead", seed=3, fault="dead")))
    await stub.LoadModel(scoring_pb2.LoadModelRequest(model=dead))
    reasons = []
    while "ENGINE_DEAD" not in reasons:  # it dies of the first request after each start
        failure = await failure_of(stub.ScoreSamples(scoring_request()))
        assert (failure.code, failure.retryable) == (grpc.StatusCode.UNAVAILABLE, True)
        reasons.append(failure.reason)
    assert reasons == ["ENGINE_RESTARTING"] * server.settings.engine_restarts + ["ENGINE_DEAD"]
    assert server.lifecycle.failure is not None
    assert server.lifecycle.stop_requested.is_set()
    failure = await failure_of(stub.ScoreSamples(scoring_request()))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD")


async def test_a_drain_finishes_calls_refuses_new_ones_and_ends_watches(settings, slow, at_work) -> None:
    server, (begun, _) = Server(settings.model_copy(update={"grace": 60.0}), new_engine, version="test"), at_work
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        await stub.LoadModel(scoring_pb2.LoadModelRequest(model=slow))
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SCORING))
        assert (await watch.read()).status == SERVING
        begun.clear()
        running_call = asyncio.ensure_future(stub.ScoreSamples(scoring_request()))
        await asyncio.wait_for(begun.wait(), 5)
        began = time.monotonic()
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        failure = await failure_of(stub.ScoreSamples(scoring_request()))
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert (await running_call).scores[0].status.code == 0
        await stopping
        # Long before the grace of 60 s is over: nothing held it up.
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("end", ["drain", "fail"])
async def test_health_says_not_serving_before_the_first_call_is_refused(server, channel, monkeypatch, end) -> None:
    """Whoever watches health stops sending calls before any is lost; also where the engine has died."""
    watches = [
        health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))
        for name in ("", SCORING, REWRITING)
    ]
    assert [(await watch.read()).status for watch in watches] == [SERVING] * 3
    go = asyncio.Event()
    monkeypatch.setattr(FakeEngine, "_work", lambda _: go.wait())
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    running_call = asyncio.ensure_future(stub.ScoreSamples(scoring_request()))
    admission = server.admissions[SCORING]
    await until(lambda: admission.running == 1)

    phases = []
    told = server.lifecycle.before_drain
    monkeypatch.setattr(server.lifecycle, "before_drain", lambda: (phases.append(server.lifecycle.phase), told())[1])
    server.lifecycle.drain() if end == "drain" else server.lifecycle.fail(RuntimeError("gone"))
    assert phases == [Phase.SERVING]
    assert [(await watch.read()).status for watch in watches] == [NOT_SERVING] * 3
    # The call that was there goes on while health has said so and new ones are refused.
    assert (await failure_of(stub.ScoreSamples(scoring_request()))).code is grpc.StatusCode.UNAVAILABLE
    assert [await check(channel, name) for name in ("", SCORING, REWRITING)] == [NOT_SERVING] * 3
    assert not running_call.done()
    go.set()
    assert (await running_call).scores[0].status.code == 0


async def test_two_watchers_both_hear_after_one_has_left(server, channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    first, second = (stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
    assert [(await watch.read()).status for watch in (first, second)] == [SERVING, SERVING]
    first.cancel()
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(server.stop())
    assert (await asyncio.wait_for(second.read(), 1)).status == NOT_SERVING
    await stopping


async def test_watching_an_unknown_service_says_so(channel) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_a_taken_port_is_told(settings, server) -> None:
    port = int(server.address.rsplit(":", 1)[1])
    second = Server(settings.model_copy(update={"port": port}), new_engine, version="test")
    with pytest.raises(BindError, match=str(port)):
        await second.start()
    await second.stop()


async def test_ipv6_loopback_works(settings: ServerSettings) -> None:
    async with running(settings.model_copy(update={"host": "::1"}), new_engine) as server:
        assert server.address.startswith("[::1]:")
        async with grpc.aio.insecure_channel(server.address) as channel:
            assert await check(channel) == SERVING
