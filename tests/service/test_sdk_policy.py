"""Retries, deadlines, splitting and joining, against fake services over real gRPC."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest

import burnish
from burnish import AsyncClient, Client, ClientOptions, Endpoints, Limits, Message, ModelRef, Role, RunSpec, Sample
from burnish._channel import DEFAULT_DEADLINES
from burnish.api.common.v1 import common_pb2
from burnish.testing import FakeServices

QUICK = ClientOptions(initial_backoff=0.01, max_backoff=0.05, connect_timeout=0.5, reconnect_timeout=5.0)
LIMITS = Limits(max_items=10, max_message_bytes=2**20, max_sequence_tokens=100, max_concurrent_requests=4)


@pytest.fixture
def fakes() -> Iterator[FakeServices]:
    with FakeServices(limits=LIMITS) as running:
        yield running


def samples(count: int, size: int = 10) -> list[Sample]:
    return [
        Sample(f"s{i}", (Message(Role.USER, f"q{i} " + "x" * size), Message(Role.ASSISTANT, f"answer {i}")))
        for i in range(count)
    ]


def client(fakes: FakeServices, **changes: Any) -> AsyncClient:
    return AsyncClient(fakes.endpoints, options=replace(QUICK, **changes))


# --- splitting and joining --------------------------------------------------------------------------------------------


async def test_more_items_than_the_server_takes(fakes: FakeServices) -> None:
    async with client(fakes) as c:
        batch = await c.scoring.score(samples(25))
        alone = await c.scoring.score(samples(25)[17:18])
    assert [score.sample_id for score in batch.scores] == [f"s{i}" for i in range(25)]
    assert batch.scores[17] == alone.scores[0]
    assert sorted(len(r.samples) for r in fakes.requests("ScoreSamples")) == [1, 7, 9, 9]
    assert batch.timing.engine_seconds == pytest.approx(3 * 1.5)
    assert batch.timing.prompt_tokens == sum(score.num_sequence_tokens for score in batch.scores)


async def test_more_bytes_than_a_message_holds(fakes: FakeServices) -> None:
    async with client(fakes) as c:
        await c.scoring.score(samples(6, size=300_000))
    assert [len(r.samples) for r in fakes.requests("ScoreSamples")] == [3, 3]


async def test_own_limits_count_too(fakes: FakeServices) -> None:
    async with client(fakes, max_batch_items=4) as c:
        await c.embedding.embed(samples(8), return_vectors=True)
    assert [len(r.samples) for r in fakes.requests("EmbedSamples")] == [4, 4]


async def test_items_that_cannot_be_sent_fail_alone(fakes: FakeServices) -> None:
    huge = samples(1, size=2**21)[0]
    broken = Sample("broken", (Message(Role.USER, "\ud83d"), Message(Role.ASSISTANT, "a")))
    async with client(fakes) as c:
        batch = await c.scoring.score([huge, *samples(3)[1:], broken], model="m")
        only = await c.scoring.score([broken], model="m")
        judged = await c.scoring.judge([broken])
        embedded = await c.embedding.embed([broken], return_vectors=True)
        rated = await c.scoring.judge([broken], mode=burnish.JudgeMode.LOGIT)
        estimated = await c.scoring.confidence([broken])
        compared = await c.scoring.compare([burnish.ResponsePair("p", broken.messages[:1], "a", "b")])
        digests = (await c.scoring.info()).prompt_digests
        rewritten = await c.rewriting.rewrite([burnish.RewriteItem(broken)], burnish.Strategy.IMPROVE)
    assert [score.status.reason for score in batch.scores] == ["TOO_LARGE", "", "", "BAD_TEXT"]
    assert batch.scores[0].mean_nll is None
    assert only.scores == (batch.scores[3],)
    assert only.model == batch.model
    for reply, kind in ((judged, "judge"), (rated, "rate"), (estimated, "confidence"), (compared, "compare")):
        assert reply.prompt_digest == digests[kind], "as where something was sent, or a run would take it for another"
    assert embedded.embeddings[0].status == judged.judgments[0].status == rewritten.rewrites[0].status
    assert rewritten.prompt_version.startswith("improve/")


async def test_a_reply_too_large_is_asked_for_in_halves(fakes: FakeServices) -> None:
    fakes.change_reply("ScoreSamples", lambda reply: _pad(reply, 40_000))
    async with client(fakes, max_message_bytes=200_000) as c:
        batch = await c.scoring.score(samples(10))
    assert [score.sample_id for score in batch.scores] == [f"s{i}" for i in range(10)]
    assert sorted(len(r.samples) for r in fakes.requests("ScoreSamples")) == [2, 2, 3, 3, 5, 5, 10]


async def test_one_reply_too_large_says_what_to_raise(fakes: FakeServices) -> None:
    fakes.change_reply("ScoreSamples", lambda reply: _pad(reply, 400_000))
    async with client(fakes, max_message_bytes=200_000) as c:
        with pytest.raises(burnish.MessageTooLarge, match="raise max_message_bytes"):
            await c.scoring.score(samples(2))


def _pad(reply: Any, size: int) -> None:
    for score in reply.scores:
        score.status.message = "x" * size


async def test_parts_from_different_models_are_not_joined(fakes: FakeServices) -> None:
    versions = iter("abcdef")
    fakes.change_reply("ScoreSamples", lambda reply: setattr(reply.model, "digest", next(versions)))
    async with client(fakes) as c:
        with pytest.raises(burnish.VersionMismatch, match=r"answered by different versions .* Name the model"):
            await c.scoring.score(samples(25))


async def test_parts_that_differ_in_their_number_format_alone_are_told_so(fakes: FakeServices) -> None:
    formats = iter(["float32", "bfloat16"] * 3)
    fakes.change_reply("ScoreSamples", lambda reply: setattr(reply.model, "dtype", next(formats)))
    async with client(fakes) as c:
        with pytest.raises(burnish.VersionMismatch, match=r"number format alone.*same --dtype") as error:
            await c.scoring.score(samples(25))
    assert "release" not in str(error.value)


async def test_parts_under_different_prompts_are_not_joined(fakes: FakeServices) -> None:
    digests = iter("abcdef")
    fakes.change_reply("JudgeSamples", lambda reply: setattr(reply, "prompt_digest", next(digests)))
    async with client(fakes) as c:
        with pytest.raises(burnish.VersionMismatch):
            await c.scoring.judge(samples(25))


async def test_no_more_requests_at_a_time_than_the_window(fakes: FakeServices) -> None:
    lock, now, most = threading.Lock(), 0, 0

    def slowly(reply: Any) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.05)
        with lock:
            now -= 1

    fakes.change_reply("ScoreSamples", slowly)
    async with client(fakes, max_in_flight=2) as c:
        await asyncio.gather(*(c.scoring.score(samples(30)) for _ in range(3)))
    assert most == 2


async def test_a_failed_part_ends_the_others(fakes: FakeServices) -> None:
    fakes.fail_next("ScoreSamples", grpc.StatusCode.NOT_FOUND, "no model at m", reason="MODEL_NOT_FOUND")
    async with client(fakes, max_in_flight=1) as c:
        with pytest.raises(burnish.NotFound, match=r"no model at m \[NOT_FOUND, MODEL_NOT_FOUND\]"):
            await c.scoring.score(samples(100))
    assert len(fakes.requests("ScoreSamples")) <= 2


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: reply.scores.pop(),
        lambda reply: reply.scores.reverse(),
        lambda reply: reply.ClearField("model"),
        lambda reply: setattr(reply.scores[0].turns[0], "logprobs", b"abc"),
        lambda reply: setattr(reply.scores[0].turns[0], "token_ids", b"abcd" * 9),
    ],
    ids=["missing", "order", "no model", "torn array", "wrong length"],
)
async def test_a_reply_that_breaks_the_contract(fakes: FakeServices, change: Any) -> None:
    fakes.change_reply("ScoreSamples", change)
    async with client(fakes) as c:
        with pytest.raises(burnish.MalformedReply, match=r"the reply to \w+ is malformed"):
            await c.scoring.score(samples(2))


# --- retries ----------------------------------------------------------------------------------------------------------


# A server that stops under a call may end it as CANCELLED, which nobody here asked for.
@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
async def test_a_server_that_is_away_or_went_away_is_tried_again(fakes: FakeServices, code: grpc.StatusCode) -> None:
    fakes.fail_next("ScoreSamples", code, times=3)
    async with client(fakes) as c:
        assert len((await c.scoring.score(samples(2))).scores) == 2
    assert len(fakes.requests("ScoreSamples")) == 4


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INTERNAL, burnish.ServiceFault),
        (grpc.StatusCode.INVALID_ARGUMENT, burnish.InvalidRequest),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, burnish.Overloaded),
        (grpc.StatusCode.ABORTED, burnish.Conflict),
    ],
)
async def test_nothing_else_is_tried_again(fakes: FakeServices, code: grpc.StatusCode, kind: type) -> None:
    fakes.fail_next("ScoreSamples", code)
    async with client(fakes) as c:
        with pytest.raises(kind, match="made to fail"):
            await c.scoring.score(samples(2))
    assert len(fakes.requests("ScoreSamples")) == 1


async def test_overload_waits_as_long_as_the_server_says(fakes: FakeServices) -> None:
    fakes.fail_next("ScoreSamples", grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after=0.4)
    async with client(fakes) as c:
        began = time.monotonic()
        await c.scoring.score(samples(2))
    assert time.monotonic() - began > 0.39
    assert len(fakes.requests("ScoreSamples")) == 2


async def test_no_retry_goes_past_the_deadline(fakes: FakeServices) -> None:
    fakes.fail_next("ScoreSamples", grpc.StatusCode.RESOURCE_EXHAUSTED, reason="OVERLOADED", retry_after=60)
    async with client(fakes) as c:
        began = time.monotonic()
        with pytest.raises(burnish.Overloaded) as caught:
            await c.scoring.score(samples(2), timeout=30)
    assert time.monotonic() - began < 15
    assert caught.value.retryable


async def test_a_default_deadline_waits_for_a_service_that_comes_back(
    fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULT_DEADLINES, "GetInfo", 1.0)
    async with client(fakes, reconnect_timeout=60.0) as c:
        await c.scoring.info()
        for times in (2, 40):  # the last of these after more than a second
            fakes.fail_next("GetInfo", grpc.StatusCode.UNAVAILABLE, times=times, retry_after=0.1)
            assert (await c.scoring.info()).limits == LIMITS
        fakes.fail_next("GetInfo", grpc.StatusCode.UNAVAILABLE, times=1000, retry_after=0.1)
        with pytest.raises(burnish.Unreachable):
            await c.scoring.info(timeout=1.0)  # whoever names a deadline means it


async def test_a_service_that_answered_is_given_time_to_come_back(fakes: FakeServices) -> None:
    async with client(fakes) as c:
        await c.scoring.score(samples(2))
        fakes.stop()
        later = asyncio.get_running_loop().call_later(1.0, fakes.start)  # twice as long as connect_timeout
        assert len((await c.scoring.score(samples(2))).scores) == 2
        later.cancel()


async def test_a_run_is_watched_across_a_restart_of_the_server(fakes: FakeServices) -> None:
    fakes.finish_runs = False
    async with client(fakes) as c:
        run = await c.training.create(RunSpec(ModelRef("m"), "d"))
        numbers = []
        async for event in run.watch():
            numbers.append(event.number)
            if event.number == 3:
                fakes.stop()
                fakes.start()
                fakes.finish_runs = True
    assert numbers == [1, 2, 3, 4]
    assert run.snapshot.state.ended


async def test_an_address_where_nobody_listens(unused_tcp_port: int) -> None:
    async with AsyncClient(f"127.0.0.1:{unused_tcp_port}", options=QUICK) as c:
        began = time.monotonic()
        with pytest.raises(burnish.Unreachable) as caught:
            await c.scoring.score(samples(1))
    assert time.monotonic() - began < 3
    message = str(caught.value)
    assert message.startswith(f"scoring service at 127.0.0.1:{unused_tcp_port} does not answer (")
    assert "Connection refused" in message
    assert message.endswith("Start it with `burnish up --roles scoring` or pass --scoring-endpoint")


async def test_an_address_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with AsyncClient(f"127.0.0.1:{mute.getsockname()[1]}", options=QUICK) as c:
            began = time.monotonic()
            with pytest.raises(burnish.Unreachable, match=r"does not answer \("):
                await c.scoring.info()
    assert time.monotonic() - began < 3


async def test_a_call_that_takes_too_long(fakes: FakeServices) -> None:
    fakes.change_reply("ScoreSamples", lambda reply: time.sleep(0.5))
    async with client(fakes) as c:
        with pytest.raises(burnish.DeadlineExceeded, match=r"did not answer ScoreSamples within 0.1 s"):
            await c.scoring.score(samples(1), timeout=0.1)
    assert len(fakes.requests("ScoreSamples")) == 1


# --- clients ----------------------------------------------------------------------------------------------------------


async def test_a_service_without_an_address(fakes: FakeServices) -> None:
    async with AsyncClient(Endpoints(scoring=fakes.address), options=QUICK) as c:
        await c.scoring.info()
        with pytest.raises(burnish.UsageError, match="no address for the embedding service"):
            await c.embedding.info()


async def test_closing_ends_the_calls_in_progress(fakes: FakeServices) -> None:
    fakes.change_reply("ScoreSamples", lambda reply: time.sleep(1))
    async with client(fakes) as c:
        call = asyncio.ensure_future(c.scoring.score(samples(1)))
        await asyncio.sleep(0.2)
        await c.close()
        with pytest.raises(burnish.CallCancelled, match="the client was closed"):
            await call


def test_a_client_belongs_to_one_event_loop(fakes: FakeServices) -> None:
    c = client(fakes)
    asyncio.run(c.embedding.list_collections())
    with pytest.raises(burnish.UsageError, match="another event loop"):
        asyncio.run(c.embedding.list_collections())


def test_the_synchronous_client_serves_many_threads(fakes: FakeServices) -> None:
    results: list[int] = []
    with Client(fakes.endpoints, options=QUICK) as c:
        threads = [
            threading.Thread(target=lambda: results.append(len(c.scoring.score(samples(25)).scores))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [25] * 8


def test_an_iterator_that_is_left_early_is_closed(fakes: FakeServices) -> None:
    fakes.finish_runs = False
    with Client(fakes.endpoints, options=QUICK) as c:
        run = c.training.create(RunSpec(ModelRef("m"), "d"))
        watching = run.watch()
        assert next(watching).number == 1
        watching.close()
        assert c.training.get(run.run_id).run_id == run.run_id


async def test_the_synchronous_client_works_inside_a_running_loop(fakes: FakeServices) -> None:
    with Client(fakes.endpoints, options=QUICK) as c:
        assert c.scoring.info().model is not None


def test_the_fakes_keep_the_contract_s_ids(fakes: FakeServices) -> None:
    request_limit = common_pb2.Limits(max_items=10)
    with Client(fakes.endpoints, options=QUICK) as c:
        assert c.scoring.info().limits.max_items == request_limit.max_items
