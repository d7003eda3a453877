"""More than a service takes, over real gRPC: refused with a hint when to come back, and the client finds its pace."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest

from burnish import AsyncClient, ClientOptions, Message, Role, Sample
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import FakeEngine, write_fake_model
from burnish_services.runtime import intake
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.errors import ServiceError
from burnish_services.runtime.server import Server, running
from tests.service.support import failure_of, sample
from tests.waiting import until

LIMIT = 2000  # tokens


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Takes its time, and few tokens."""
    monkeypatch.setenv("BURNISH_SCORING_MAX_TOKENS_IN_FLIGHT", str(LIMIT))
    model = write_fake_model(tmp_path / "slow", latency_seconds=0.05)
    settings = ServerSettings(
        roles=("scoring",), engine="fake", model=str(model), state_dir=tmp_path / "state", grace=2.0
    )
    async with running(settings, partial(create_engine, "fake")) as running_server:
        yield running_server


async def test_tokens_beyond_the_limit_are_refused_with_a_hint(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    go = asyncio.Event()
    monkeypatch.setattr(FakeEngine, "_work", lambda _: go.wait())
    admission = server.admissions["burnish.api.scoring.v1.ScoringService"]
    budget = admission.tokens
    assert budget is not None
    long = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Q", "word " * 1500)])
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        assert (await stub.GetInfo(scoring_pb2.GetInfoRequest())).info.limits.max_tokens_in_flight == LIMIT
        first = asyncio.ensure_future(stub.ScoreSamples(long))
        await until(lambda: admission.running == 1 and budget.held > 0)
        failure = await failure_of(stub.ScoreSamples(long))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TOKENS")
        assert failure.retryable
        assert failure.retry_after is not None
        go.set()
        assert (await first).scores[0].status.code == 0
        huge = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Q", "word " * 5000)])
        assert (await stub.ScoreSamples(huge)).scores[0].status.code == 0, "alone it is taken, or it never could be"


async def test_the_client_finds_its_pace_and_everything_is_scored(server: Server) -> None:
    samples = [
        Sample(f"s{i}", (Message(Role.USER, f"Question {i}?"), Message(Role.ASSISTANT, "word " * (50 + i))))
        for i in range(64)
    ]
    options = ClientOptions(max_batch_items=4, max_in_flight=8, initial_backoff=0.01)
    async with AsyncClient(server.address, options=options) as client:
        batch = await client.scoring.score(samples)
        assert [one.sample_id for one in batch.scores] == [one.id for one in samples]
        assert all(one.status.ok for one in batch.scores)
        # A request has 200 to 460 tokens, so that eight at a time are too many and one is few.
        assert 1 <= client.scoring._link.window.limit < 8


async def test_a_batch_for_which_there_is_never_room_is_divided(server: Server) -> None:
    samples = [Sample(f"s{i}", (Message(Role.USER, "Q"), Message(Role.ASSISTANT, "word " * 300))) for i in range(8)]
    options = ClientOptions(max_in_flight=1, initial_backoff=0.01, max_backoff=0.02)
    budget = server.admissions["burnish.api.scoring.v1.ScoringService"].tokens
    assert budget is not None
    async with AsyncClient(server.address, options=options) as client:
        with budget.holding(500):  # as many others do together, one coming when one goes
            batch = await client.scoring.score(samples, timeout=10)
    assert [one.sample_id for one in batch.scores] == [one.id for one in samples]
    assert all(one.status.ok for one in batch.scores)


async def test_what_nobody_could_look_at_for_a_while_is_dropped_by_grpc_itself(server: Server, tmp_path: Path) -> None:
    settings = server.settings.model_copy(update={"max_pending": 1, "state_dir": tmp_path / "other"})
    connected, held_up = threading.Event(), threading.Event()
    async with running(settings, partial(create_engine, "fake")) as busy:

        def ask() -> list[grpc.StatusCode]:
            """From another thread, while this one, and with it the server, is held up."""
            with grpc.insecure_channel(busy.address) as channel:
                grpc.channel_ready_future(channel).result(10)
                connected.set()
                assert held_up.wait(10)
                stub = scoring_pb2_grpc.ScoringServiceStub(channel)
                calls = [stub.GetInfo.future(scoring_pb2.GetInfoRequest(), timeout=20) for _ in range(8)]
                return [call.code() for call in calls]

        asking = asyncio.get_running_loop().run_in_executor(None, ask)
        await until(connected.is_set)
        held_up.set()
        time.sleep(2)  # noqa: ASYNC251 - what an event loop does that has too much to do
        codes = await asking
    # gRPC holds one call for whoever asks next, however old it is.
    assert codes.count(grpc.StatusCode.CANCELLED) >= 6
    assert set(codes) <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}


async def test_a_call_without_time_left_is_not_worked() -> None:
    class Late:
        def time_remaining(self) -> float:
            return 0.01

    with pytest.raises(ServiceError, match="10 ms of the call's deadline were left") as refused:
        intake._check_time(Late())  # type: ignore[arg-type]
    assert refused.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
