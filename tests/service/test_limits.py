"""Every limit that GetInfo announces is enforced, by every service, with a hint when to come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.api.rewriting.v1 import rewriting_pb2, rewriting_pb2_grpc
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ALL_ROLES, ServerSettings
from burnish_services.runtime.server import Server, running
from tests.service.support import Failure, failure_of, sample
from tests.waiting import until

STUBS: dict[str, Any] = {
    "scoring": scoring_pb2_grpc.ScoringServiceStub,
    "embedding": embedding_pb2_grpc.EmbeddingServiceStub,
    "rewriting": rewriting_pb2_grpc.RewritingServiceStub,
    "training": training_pb2_grpc.TrainingServiceStub,
}
REQUESTS: dict[str, Any] = {
    "scoring": scoring_pb2.GetInfoRequest(),
    "embedding": embedding_pb2.GetInfoRequest(),
    "rewriting": rewriting_pb2.GetInfoRequest(),
    "training": training_pb2.GetInfoRequest(),
}


@asynccontextmanager
async def serving(
    folder: Path, latency: float = 0.0, **settings: Any
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    """All services behind one port, and a channel to them."""
    model = write_fake_model(folder / "model", latency_seconds=latency)
    chosen = {"roles": ALL_ROLES, "engine": "fake", "model": str(model), "state_dir": folder / "state", "grace": 0.5}
    async with (
        running(ServerSettings(**(chosen | settings)), partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield server, channel


def batch(service: str, channel: grpc.aio.Channel, ids: list[str], words: int = 1) -> Any:
    """A call of the service with one item for each id."""
    stub, text = STUBS[service](channel), "word " * words
    if service == "scoring":
        return stub.ScoreSamples(scoring_pb2.ScoreSamplesRequest(samples=[sample(i, text, "Yes") for i in ids]))
    if service == "embedding":
        samples = [sample(i, text, "Yes") for i in ids]
        return stub.EmbedSamples(embedding_pb2.EmbedSamplesRequest(samples=samples, return_vectors=True))
    items = [rewriting_pb2.RewriteItem(sample=sample(i, text, "Yes")) for i in ids]
    return stub.RewriteSamples(
        rewriting_pb2.RewriteSamplesRequest(items=items, strategy=rewriting_pb2.STRATEGY_SIMPLIFY)
    )


async def limits_of(service: str, channel: grpc.aio.Channel) -> common_pb2.Limits:
    """What GetInfo announces."""
    limits: common_pb2.Limits = (await STUBS[service](channel).GetInfo(REQUESTS[service])).info.limits
    return limits


def is_overload(failure: Failure, reason: str) -> bool:
    """True for a refusal for this reason that says when to come back."""
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason), failure
    return failure.retryable and failure.retry_after is not None and failure.retry_after > 0


@pytest.mark.parametrize("service", ["scoring", "embedding", "rewriting"])
async def test_items_tokens_and_calls(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"MAX_ITEMS": 3, "MAX_TOKENS_IN_FLIGHT": 6000, "MAX_CONCURRENT_REQUESTS": 2}
    for name, value in limits.items():
        monkeypatch.setenv(f"BURNISH_{service.upper()}_{name}", str(value))
    async with serving(tmp_path, latency=0.4) as (server, channel):
        told = await limits_of(service, channel)
        assert (told.max_items, told.max_tokens_in_flight, told.max_concurrent_requests) == (3, 6000, 2)
        assert (told.max_message_bytes, told.max_bytes_in_flight) == (64 * 2**20, 2**30)

        too_many = await failure_of(batch(service, channel, ["a", "b", "c", "d"]))
        assert (too_many.code, too_many.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_ITEMS")

        guard = server.admissions[f"burnish.api.{service}.v1.{service.capitalize()}Service"]
        assert guard.tokens is not None
        first = asyncio.ensure_future(batch(service, channel, ["a", "b", "c"], words=500))
        await until(lambda: guard.tokens.held > 1000)
        assert is_overload(await failure_of(batch(service, channel, ["a", "b", "c"], words=1600)), "TOO_MANY_TOKENS")
        second = asyncio.ensure_future(batch(service, channel, ["a"]))
        await until(lambda: guard.running == 2)
        assert is_overload(await failure_of(batch(service, channel, ["a"])), "TOO_MANY_REQUESTS")
        await asyncio.gather(first, second)
        assert (guard.tokens.held, guard.running) == (0, 0)


async def test_streams_and_uploads_have_a_limit_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_MAX_CONCURRENT_STREAMS", "2")
    monkeypatch.setenv("BURNISH_TRAINING_MAX_CONCURRENT_REQUESTS", "1")
    monkeypatch.setenv("BURNISH_TRAINING_MAX_DATA_BYTES", "1000")
    async with serving(tmp_path, roles=("training",)) as (_, channel):
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        info = await stub.GetInfo(training_pb2.GetInfoRequest())
        assert (info.info.limits.max_concurrent_streams, info.max_data_bytes) == (2, 1000)
        open_uploads = [stub.UploadData() for _ in range(2)]
        for upload in open_uploads:
            await upload.write(training_pb2.UploadDataRequest(chunk=b"{}\n"))
        waiting = tmp_path / "state" / "training" / "data"
        await until(lambda: len(list(waiting.glob(".incoming-*"))) == 2)
        refused = stub.WatchRun(training_pb2.WatchRunRequest(run_id="any"))
        assert is_overload(await failure_of(refused.read()), "TOO_MANY_STREAMS")
        assert is_overload(await failure_of(stub.UploadData(iter([]))), "TOO_MANY_STREAMS")
        assert not (await stub.ListRuns(training_pb2.ListRunsRequest())).runs, "uploads take no other call's place"
        for upload in open_uploads:
            await upload.write(training_pb2.UploadDataRequest(last=True))
            await upload.done_writing()
            assert (await upload).size_bytes == 3
        large = stub.UploadData(iter([training_pb2.UploadDataRequest(chunk=b"x" * 1001, last=True)]))
        assert (await failure_of(large)).reason == "DATA_TOO_LARGE"


async def test_calls_of_all_services_together(tmp_path: Path) -> None:
    async with serving(tmp_path, latency=0.5, max_calls=2) as (server, channel):
        running_calls = [asyncio.ensure_future(batch("scoring", channel, ["a"])) for _ in range(2)]
        await until(lambda: server.intake.calls == 2)
        assert is_overload(await failure_of(batch("embedding", channel, ["a"])), "TOO_MANY_CALLS")
        await asyncio.gather(*running_calls)
        await batch("embedding", channel, ["a"])


async def test_bytes_of_all_services_together(tmp_path: Path) -> None:
    async with serving(tmp_path, latency=0.5, max_bytes_in_flight=2**20) as (server, channel):
        first = asyncio.ensure_future(batch("scoring", channel, ["a"], words=150_000))
        await until(lambda: server.intake.bytes > 700_000)
        assert is_overload(await failure_of(batch("embedding", channel, ["a"], words=150_000)), "TOO_MANY_BYTES")
        assert (await limits_of("embedding", channel)).max_bytes_in_flight == 2**20, "small requests are answered"
        await first
        await until(lambda: server.intake.bytes == 0)
        await batch("embedding", channel, ["a"], words=150_000)
