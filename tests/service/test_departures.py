"""Clients that leave in the middle of a call, over real gRPC: nothing is sent after them, and nothing stays of them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc._cython.cygrpc import ExecuteBatchError

from burnish._status import CallStatus
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.runtime import departures, logs
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.departures import AsDepartures, to_its_end
from burnish_services.runtime.reporting import CallReporter
from burnish_services.runtime.server import Server, running
from tests.service.support import failure_of, sample
from tests.waiting import until

GRPC = "grpc._cython.cygrpc"
SCORE = "/burnish.api.scoring.v1.ScoringService/ScoreSamples"


class Records(logging.Handler):
    """What a logger was told, past its filters."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)

    def tell(self, word: str) -> list[logging.LogRecord]:
        return [one for one in self.seen if word in one.getMessage()]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    """Of gRPC and of departures, from DEBUG on."""
    handler = Records()
    for name in (GRPC, departures.__name__):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
        monkeypatch.setattr(logger, "filters", list(logger.filters))
        logger.manager._clear_cache()  # type: ignore[attr-defined]
    return handler


async def test_no_reply_is_sent_after_a_client_that_left(
    server: Server, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_reply = threading.Event()
    sendable = server.intake._sendable

    def leave() -> None:
        with grpc.insecure_channel(server.address) as channel:
            request = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Why?", "So.")])
            call = channel.unary_unary(SCORE).future(request.SerializeToString())
            at_the_reply.wait(10)
            call.cancel()

    def held_up(reply: bytes) -> bytes:
        """The client leaves while the event loop has too much to do to notice."""
        at_the_reply.set()
        time.sleep(0.5)
        return sendable(reply)

    monkeypatch.setattr(server.intake, "_sendable", held_up)
    leaving = threading.Thread(target=leave)
    leaving.start()
    await until(lambda: not leaving.is_alive())
    await until(lambda: server.intake.calls == 0)
    assert records.tell("RPC cancelled"), "else gRPC was given a reply for nobody, and keeps 400 bytes of that"
    assert server.intake.bytes == 0
    assert [admission.running for admission in server.admissions.values()] == [0, 0]


async def test_a_reply_larger_than_a_message_may_be_is_refused_in_words_that_clients_know(
    model: Path, tmp_path: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(
        roles=("scoring",), engine="fake", model=str(model), state_dir=tmp_path / "small", max_message_bytes=70_000
    )
    told: list[str] = []
    monkeypatch.setattr(CallReporter, "close", lambda _, record, code, reason="": told.append(reason))
    request = scoring_pb2.ScoreSamplesRequest(samples=[sample(f"s{i}" * 40, "Q") for i in range(400)])
    async with (
        running(settings, partial(create_engine, "fake")) as small,
        grpc.aio.insecure_channel(small.address) as channel,
    ):
        refused = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REPLY_TOO_LARGE")
    assert CallStatus(refused.code, refused.message).too_large, "so that the SDK asks for halves"
    assert told == ["REPLY_TOO_LARGE"], "once, and not as a call that went well"
    assert not records.tell("ExecuteBatchError")


async def test_what_is_awaited_of_grpc_goes_on_where_its_call_is_cancelled() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def read() -> bytes:
        begun.set()
        await may_end.wait()
        ended.set()
        raise RuntimeError("as gRPC does of a call that is over")

    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    reading = asyncio.ensure_future(to_its_end(read))
    await begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    may_end.set()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0)
    assert not complaints


async def test_nothing_is_abandoned_of_a_call_that_is_over_before_it_is_looked_at(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []

    async def told(operation: Callable[[], Awaitable[object]]) -> object:
        async def noted() -> object:
            try:
                return await operation()
            except asyncio.CancelledError:
                ends.append("abandoned")
                raise
            finally:
                ends.append("over")

        return await to_its_end(noted)

    connected, held_up, left = threading.Event(), threading.Event(), threading.Event()

    def leave() -> None:
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(10)
            connected.set()
            assert held_up.wait(10)
            call = channel.unary_unary(SCORE).future(b"")
            time.sleep(0.3)
            call.cancel()
        left.set()

    monkeypatch.setattr("burnish_services.runtime.intake.to_its_end", told)
    leaving = threading.Thread(target=leave)
    leaving.start()
    await until(connected.is_set)
    held_up.set()
    assert left.wait(10)
    time.sleep(0.5)  # noqa: ASYNC251 - what an event loop does that has too much to do
    await until(lambda: bool(ends))
    await until(lambda: server.intake.calls == 0 and not leaving.is_alive())
    assert ends == ["over"]


def failed(error: Exception) -> logging.LogRecord:
    told = (type(error), error, None)
    return logging.makeLogRecord(
        {"msg": "ExecuteBatchError raised in core by [/x/Y]", "levelno": logging.ERROR, "exc_info": told}
    )


def test_an_answer_that_came_too_late_is_no_error(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    grpc_log = logging.getLogger(GRPC)
    for name in ("", "burnish_services"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
        monkeypatch.setattr(logger, "level", logger.level)
    for _ in range(2):
        logs.configure("debug", "text")
    assert sum(isinstance(one, AsDepartures) for one in grpc_log.filters) == 1
    grpc_log.handle(failed(ExecuteBatchError('Failed "execute_batch": (<SendMessageOperation>,)')))
    (only,) = records.seen
    assert (only.name, only.levelno, only.exc_info) == (departures.__name__, logging.DEBUG, None)
    assert "/x/Y" in vars(only)["grpc"]
    for other in (ExecuteBatchError("Failed grpc_call_start_batch: 8"), RuntimeError('Failed "execute_batch"')):
        grpc_log.handle(failed(other))
        assert records.seen[-1].exc_info is not None, "a defect stays an error"
