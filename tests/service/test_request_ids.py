"""A call is found again, by one id, in the caller's words and in the server's log."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial

import grpc.aio
import pytest

from burnish import AsyncClient, ClientOptions, Message, Role, Sample
from burnish._errors import ServiceFault
from burnish._outgoing import working_on
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import FakeEngine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.logs import TextFormatter
from burnish_services.runtime.server import Server, running
from tests.service.support import sample
from tests.waiting import until

SAMPLE = Sample("s", (Message(Role.USER, "Hi"), Message(Role.ASSISTANT, "Hello!")))


def calls(caplog: pytest.LogCaptureFixture, method: str) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.message == "call" and one.method.endswith(method)]


@pytest.fixture(autouse=True)
def _informed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_a_fault_is_found_in_the_servers_log_by_what_the_client_says(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: FakeEngine, requests: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(FakeEngine, "score", broken)
    with working_on("middo-0123456789ab"):
        async with AsyncClient(server.address) as client:
            with pytest.raises(ServiceFault) as caught:
                await client.scoring.score([SAMPLE])
    error = caught.value
    assert re.fullmatch("[0-9a-f]{16}", error.request_id)
    assert f"its log says more under request {error.request_id}" in str(error)
    await until(lambda: len(calls(caplog, "ScoreSamples")) == 1)
    (call,) = calls(caplog, "ScoreSamples")
    (defect,) = [one for one in caplog.records if one.message == "unexpected error"]
    for record in (call, defect):
        assert (record.request, record.run) == (error.request_id, "middo-0123456789ab")
        assert f" request={error.request_id} run=middo-0123456789ab " in TextFormatter().format(record) + " "
    assert calls(caplog, "GetInfo")[0].request != error.request_id, "each call has an id of its own"


async def test_outside_of_runs_no_run_is_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncClient(server.address) as client:
        await client.scoring.score([SAMPLE])
    await until(lambda: len(calls(caplog, "ScoreSamples")) == 1)
    assert not hasattr(calls(caplog, "ScoreSamples")[0], "run")


@pytest.mark.parametrize(
    "sent", [None, "", "x" * 65, "two words", 'quote"', "semi;colon"], ids=["none", "empty", "long", "", "", ""]
)
async def test_an_id_that_is_none_is_replaced(
    server: Server, channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture, sent: str | None
) -> None:
    metadata = () if sent is None else (("x-request-id", sent), ("x-burnish-run", sent))
    await scoring_pb2_grpc.ScoringServiceStub(channel).GetInfo(scoring_pb2.GetInfoRequest(), metadata=metadata)
    await until(lambda: len(calls(caplog, "GetInfo")) == 1)
    (call,) = calls(caplog, "GetInfo")
    assert re.fullmatch("[0-9a-f]{16}", call.request)
    assert not hasattr(call, "run")


async def test_any_well_formed_id_is_taken_over_on_streams_too(
    settings: ServerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    everything = settings.model_copy(update={"roles": ("training",)})
    async with (
        running(everything, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_stream("/burnish.api.training.v1.TrainingService/WatchRun")(
            b"", metadata=(("x-request-id", "their.own-Id:1"),)
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        await until(lambda: len(calls(caplog, "WatchRun")) == 1)
    assert calls(caplog, "WatchRun")[0].request == "their.own-Id:1"


async def test_all_attempts_of_a_call_have_one_id_and_the_clients_log_names_it(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BURNISH_SCORING_MAX_CONCURRENT_REQUESTS", "1")
    go = asyncio.Event()
    async with (
        running(settings, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        AsyncClient(server.address, options=ClientOptions(initial_backoff=0.01)) as client,
    ):
        work = FakeEngine._work

        async def held(self: FakeEngine) -> None:
            await go.wait()
            await work(self)

        monkeypatch.setattr(FakeEngine, "_work", held)
        request = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")])
        first = asyncio.ensure_future(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(request))
        admission = server.admissions["burnish.api.scoring.v1.ScoringService"]
        await until(lambda: admission.running == 1)
        second = asyncio.ensure_future(client.scoring.score([SAMPLE]))
        await until(lambda: any("trying again" in one.message for one in caplog.records))
        go.set()
        await first
        await second
        await until(lambda: len(calls(caplog, "ScoreSamples")) >= 3)
    refused = [one for one in calls(caplog, "ScoreSamples") if one.code == "RESOURCE_EXHAUSTED"]
    (request_id,) = {one.request for one in refused}
    answered = [one for one in calls(caplog, "ScoreSamples") if one.code == "OK" and one.request == request_id]
    assert len(answered) == 1
    told = [one.message for one in caplog.records if "trying again" in one.message]
    assert all(f"(request {request_id})" in one for one in told)
