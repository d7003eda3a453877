"""The embedding service over real gRPC on the fake engine."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import grpc.aio
import numpy as np
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish.api.embedding.v1 import embedding_pb2_grpc
from burnish_services.embedding import convert, servicer
from burnish_services.embedding.neighbors import Metric, NearestNeighbors, nearest_neighbors
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import FakeEngine, write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.errors import InvalidRequest
from burnish_services.runtime.server import Server, running
from tests.service.seeing import page, seen_services, value
from tests.service.support import failure_of, sample


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> ServerSettings:
    return ServerSettings(
        roles=("embedding",), engine="fake", model=str(model), state_dir=tmp_path / "state", max_model_len=256
    )


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> embedding_pb2_grpc.EmbeddingServiceAsyncStub:
    return embedding_pb2_grpc.EmbeddingServiceStub(channel)


async def create(stub, name: str = "notes") -> pb.Collection:
    reply = await stub.CreateCollection(pb.CreateCollectionRequest(collection=pb.Collection(name=name)))
    return reply.collection


async def embed(stub, *samples, collection: str = "notes", **fields) -> pb.EmbedSamplesResponse:
    return await stub.EmbedSamples(pb.EmbedSamplesRequest(collection=collection, samples=samples, **fields))


async def neighbors(stub, collection: str = "notes", **fields) -> pb.GetNeighborStatisticsResponse:
    return await stub.GetNeighborStatistics(pb.GetNeighborStatisticsRequest(collection=collection, **fields))


def vector_of(embedding: pb.SampleEmbedding) -> np.ndarray:
    return np.frombuffer(embedding.vector, "<f4")


async def test_info_states_the_limits(stub, model: Path) -> None:
    info = (await stub.GetInfo(pb.GetInfoRequest())).info
    assert info.engine.startswith("fake/")
    assert info.model.uri == str(model)
    assert (info.limits.max_items, info.limits.max_sequence_tokens) == (256, 256)
    assert info.limits.max_message_bytes == 64 * 2**20


async def test_a_collection_is_created_filled_listed_and_deleted(stub) -> None:
    created = await create(stub)
    assert (created.name, created.source, created.num_vectors) == ("notes", pb.TEXT_SOURCE_USER, 0)
    assert not created.HasField("model")
    assert await create(stub) == created
    reply = await embed(stub, sample("a", "What is water?", "Wet."))
    found = (await stub.GetCollection(pb.GetCollectionRequest(name="notes"))).collection
    assert (found.num_vectors, found.dimension, found.model) == (1, 64, reply.model)
    assert found.create_time == created.create_time
    listed = await stub.ListCollections(pb.ListCollectionsRequest())
    assert list(listed.collections) == [found]
    for _ in range(2):
        await stub.DeleteCollection(pb.DeleteCollectionRequest(name="notes"))
    failure = await failure_of(stub.GetCollection(pb.GetCollectionRequest(name="notes")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "COLLECTION_NOT_FOUND")
    assert not (await stub.ListCollections(pb.ListCollectionsRequest())).collections


async def test_lists_in_pages(stub) -> None:
    for name in ("b", "a", "d", "c", "e"):
        await create(stub, name)
    names, token, pages = [], "", 0
    while pages == 0 or token:
        page = await stub.ListCollections(pb.ListCollectionsRequest(page_size=2, page_token=token))
        names += [collection.name for collection in page.collections]
        token, pages = page.next_page_token, pages + 1
    assert (names, pages) == (["a", "b", "c", "d", "e"], 3)
    last = await stub.ListCollections(pb.ListCollectionsRequest(page_size=5))
    assert last.next_page_token == ""


async def test_the_vector_is_of_the_user_text_alone(stub) -> None:
    reply = await embed(
        stub,
        sample("single", "one\ntwo"),
        sample("multi", "one", "an answer", "two", "another", system="Be brief."),
        sample("other", "three", "an answer"),
        collection="",
        return_vectors=True,
    )
    single, multi, other = map(vector_of, reply.embeddings)
    np.testing.assert_array_equal(single, multi)
    assert not np.array_equal(single, other)
    assert reply.num_stored == 0
    assert [item.num_tokens for item in reply.embeddings][:2] == [reply.embeddings[0].num_tokens] * 2
    assert reply.timing.prompt_tokens == sum(item.num_tokens for item in reply.embeddings)


async def test_what_is_stored_is_not_embedded_again(stub) -> None:
    await create(stub)
    first = await embed(stub, sample("a", "one"), sample("b", "two"), return_vectors=True)
    assert first.num_stored == 2
    with mock.patch.object(FakeEngine, "embed", side_effect=AssertionError("embedded again")):
        again = await embed(stub, sample("b", "two"), sample("a", "one", "answered"), return_vectors=True)
    assert again.num_stored == 0
    assert again.timing.prompt_tokens == 0
    assert list(again.embeddings) == [first.embeddings[1], first.embeddings[0]]
    changed = await embed(stub, sample("a", "three"), sample("b", "two"), sample("c", "four"), return_vectors=True)
    assert changed.num_stored == 2
    assert changed.embeddings[1] == first.embeddings[1]
    assert changed.embeddings[0].vector != first.embeddings[0].vector
    found = (await stub.GetCollection(pb.GetCollectionRequest(name="notes"))).collection
    assert found.num_vectors == 3


async def test_stored_vectors_survive_the_server(settings: ServerSettings) -> None:
    replies = []
    for _ in range(2):
        async with (
            running(settings, partial(create_engine, "fake")) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            await create(stub)
            replies.append(await embed(stub, sample("a", "one"), return_vectors=True))
    assert [reply.num_stored for reply in replies] == [1, 0]
    assert replies[0].embeddings == replies[1].embeddings


async def test_a_failed_item_fails_alone(stub) -> None:
    await create(stub)
    long = "water " * 600
    samples = [sample("ok", "one"), sample("empty", " \n"), sample("long", long), sample("cut", long)]
    samples.append(common_pb2.Sample(id="roles"))
    reply = await embed(stub, *samples)
    assert [item.sample_id for item in reply.embeddings] == ["ok", "empty", "long", "cut", "roles"]
    reasons = [item.status.reason for item in reply.embeddings]
    assert reasons == ["", "EMPTY_PROMPT", "TOO_LONG", "TOO_LONG", "BAD_ROLES"]
    assert all(item.status.code == 3 for item in reply.embeddings[1:])
    assert reply.num_stored == 1
    cut = await embed(stub, sample("cut", long), truncate=True)
    assert (cut.num_stored, cut.embeddings[0].truncated, cut.embeddings[0].num_tokens) == (1, True, 256)
    kept = await embed(stub, sample("cut", long), truncate=True)
    assert (kept.num_stored, kept.embeddings) == (0, cut.embeddings)
    refused = await embed(stub, sample("cut", long))
    assert refused.embeddings[0].status.reason == "TOO_LONG"


async def test_vectors_that_are_not_finite_are_not_stored(stub) -> None:
    await create(stub)
    broken = np.full(64, np.nan, np.float32)
    good = np.ones(64, np.float32)
    with mock.patch.object(FakeEngine, "embed", return_value=[broken, good]):
        reply = await embed(stub, sample("a", "one"), sample("b", "two"))
    assert [item.status.reason for item in reply.embeddings] == ["NOT_FINITE", ""]
    assert reply.num_stored == 1
    assert [item.sample_id for item in (await neighbors(stub)).statistics] == ["b"]


async def test_weights_are_never_mixed(stub, tmp_path: Path, server: Server) -> None:
    other = write_fake_model(tmp_path / "other", name="second", seed=2)
    await create(stub)
    first = await embed(stub, sample("a", "one"))
    failure = await failure_of(embed(stub, sample("b", "two"), model=common_pb2.ModelRef(uri=str(other))))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_WEIGHTS")
    held = await stub.LoadModel(pb.LoadModelRequest(model=common_pb2.ModelRef(uri=first.model.uri)))
    # Where the digest tells, nothing is loaded for a request that can only be refused.
    with mock.patch.object(FakeEngine, "swap", side_effect=AssertionError("swapped")):
        wanted = common_pb2.ModelRef(uri=str(other), digest="sha256:" + "0" * 64)
        failure = await failure_of(embed(stub, sample("b", "two"), model=wanted))
        assert failure.reason == "OTHER_WEIGHTS"
    assert held.model == first.model
    assert (await stub.GetCollection(pb.GetCollectionRequest(name="notes"))).collection.num_vectors == 1


async def test_a_batch_that_is_stored_needs_no_weights(stub, tmp_path: Path) -> None:
    await create(stub)
    first = await embed(stub, sample("a", "one"))
    other = write_fake_model(tmp_path / "other", name="second", seed=2)
    await stub.LoadModel(pb.LoadModelRequest(model=common_pb2.ModelRef(uri=str(other))))
    with mock.patch.object(FakeEngine, "swap", side_effect=AssertionError("swapped")):
        wanted = common_pb2.ModelRef(uri=first.model.uri, digest=first.model.digest)
        again = await embed(stub, sample("a", "one"), model=wanted)
    assert (again.num_stored, again.model) == (0, first.model)


async def test_concurrent_requests_store_each_sample_once(stub) -> None:
    await create(stub)
    batches = [[sample(f"{number % 40:02}", f"text {number % 40}") for number in range(i, i + 10)] for i in range(32)]
    replies = await asyncio.gather(*(embed(stub, *batch) for batch in batches[::3]))
    assert sum(reply.num_stored for reply in replies) == 40
    assert (await stub.GetCollection(pb.GetCollectionRequest(name="notes"))).collection.num_vectors == 40


async def test_neighbors_are_those_of_the_vectors(stub) -> None:
    await create(stub)
    texts = ["what is water", "what is water?", "the history of art", "what is water", "history of music and art"]
    reply = await embed(stub, *(sample(f"s{i}", text) for i, text in enumerate(texts)), return_vectors=True)
    vectors = np.array([vector_of(item) for item in reply.embeddings], np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    answer = await neighbors(stub)
    assert answer.model == reply.model
    assert [item.sample_id for item in answer.statistics] == [f"s{i}" for i in range(5)]
    for row, item in enumerate(answer.statistics):
        nearest = sorted((j for j in range(5) if j != row), key=lambda j: -cosines[row, j])[:2]
        assert [neighbor.sample_id for neighbor in item.neighbors] == [f"s{j}" for j in nearest]
        np.testing.assert_allclose([n.cosine for n in item.neighbors], cosines[row, nearest], atol=1e-12)
        assert item.mean_cosine == pytest.approx(cosines[row, nearest].mean())
    assert answer.statistics[0].neighbors[0] == pb.Neighbor(sample_id="s3", cosine=1.0)


async def test_neighbors_are_sought_within_the_ids_given(stub) -> None:
    await create(stub)
    await embed(stub, *(sample(f"s{i}", f"text number {i}") for i in range(6)))
    answer = await neighbors(stub, sample_ids=["s4", "s1", "s4", "s2"], k=5)
    assert [item.sample_id for item in answer.statistics] == ["s4", "s1", "s2"]
    assert sorted(n.sample_id for n in answer.statistics[0].neighbors) == ["s1", "s2"]
    lone = (await neighbors(stub, sample_ids=["s1"])).statistics[0]
    assert (lone.mean_cosine, list(lone.neighbors)) == (0.0, [])
    failure = await failure_of(neighbors(stub, sample_ids=["s1", "nobody"]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SAMPLE_NOT_EMBEDDED")
    assert "'nobody'" in failure.message


async def test_neighbors_may_be_told_of_in_parts(stub, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(stub)
    await embed(stub, *(sample(f"s{i}", f"text number {i}") for i in range(6)))
    whole = (await neighbors(stub)).statistics
    parts = [(await neighbors(stub, query_ids=names)).statistics for names in (["s4", "s0", "s4"], ["s3"])]
    assert [[one.sample_id for one in part] for part in parts] == [["s4", "s0"], ["s3"]]
    assert [parts[0][1], parts[1][0], parts[0][0]] == [whole[0], whole[3], whole[4]], "sought in the whole set"
    searches: list[int] = []

    def searched(*given: Any, **more: Any) -> Any:
        searches.append(1)
        return nearest_neighbors(*given, **more)

    monkeypatch.setattr(servicer, "nearest_neighbors", searched)
    await neighbors(stub, query_ids=["s5"])
    assert not searches, "what comes in parts is looked for once"
    await embed(stub, sample("s6", "text number 6"))
    for names in (["s0"], ["s1"], ["s2", "s3"]):
        await neighbors(stub, query_ids=names)
    assert len(searches) == 1, "there is one more now"
    await neighbors(stub, query_ids=["s0"], k=1)
    await neighbors(stub, query_ids=["s0"], k=2)
    assert len(searches) == 3
    within = (await neighbors(stub, sample_ids=["s1", "s2", "s3"], query_ids=["s2"], k=5)).statistics
    assert [sorted(n.sample_id for n in one.neighbors) for one in within] == [["s1", "s3"]]
    failure = await failure_of(neighbors(stub, sample_ids=["s1", "s2"], query_ids=["s2", "s4"]))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NOT_IN_SET")
    assert "'s4'" in failure.message


async def test_neighbors_by_distance_and_without_copies(stub) -> None:
    await create(stub)
    samples = [sample("a", "red paint"), sample("b", "red paint"), sample("c", "blue paint"), sample("d", "a boat")]
    reply = await embed(stub, *samples, return_vectors=True)
    vectors = {item.sample_id: vector_of(item).astype(np.float64) for item in reply.embeddings}
    found = (await neighbors(stub, k=1, metric=pb.NEIGHBOR_METRIC_EUCLIDEAN)).statistics
    assert [one.neighbors[0].sample_id for one in found[:2]] == ["b", "a"]
    assert [one.mean_distance for one in found[:2]] == [0.0, 0.0]
    assert all(one.mean_cosine == 0.0 for one in found)
    apart = (await neighbors(stub, metric=pb.NEIGHBOR_METRIC_EUCLIDEAN, exclude_duplicates=True)).statistics
    assert [[n.sample_id for n in one.neighbors] for one in apart[:2]] == [["c", "d"]] * 2
    expected = np.linalg.norm(vectors["a"] - vectors["c"])
    assert apart[1].neighbors[0].distance == pytest.approx(expected, rel=1e-6)
    assert {n.sample_id for n in apart[3].neighbors} == {"a", "c"}, "of copies the first alone"
    failure = await failure_of(neighbors(stub, metric=9))
    assert failure.reason == "BAD_METRIC"


async def test_neighbors_may_be_sought_approximately_and_the_reply_says_so(stub) -> None:
    await create(stub)
    await embed(stub, *(sample(f"s{i}", f"text number {i}") for i in range(30)))
    exact = await neighbors(stub)
    assert exact.search == pb.NeighborSearch(recall=1.0)
    near = await neighbors(stub, recall=0.5)
    assert near.search.num_cells == 11
    assert 1 <= near.search.num_probed <= 11
    assert near.search.num_queries == 15
    assert 0 < near.search.recall <= 1
    same = sum(a.mean_cosine == b.mean_cosine for a, b in zip(exact.statistics, near.statistics, strict=True))
    assert same > 0
    assert all(b.mean_cosine <= a.mean_cosine for a, b in zip(exact.statistics, near.statistics, strict=True))
    failure = await failure_of(neighbors(stub, recall=1.5))
    assert failure.reason == "BAD_RECALL"


async def test_the_largest_message_is_a_setting(model: Path, tmp_path: Path) -> None:
    settings = ServerSettings(
        roles=("embedding",), engine="fake", model=str(model), state_dir=tmp_path, max_message_bytes=2**16
    )
    async with (
        running(settings, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        assert (await stub.GetInfo(pb.GetInfoRequest())).info.limits.max_message_bytes == 2**16
        await create(stub)
        await embed(stub, sample("a", "one"))
        failure = await failure_of(embed(stub, sample("b", "x" * 2**16)))
        assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        failure = await failure_of(neighbors(stub, sample_ids=[f"{number:050}" for number in range(900)]))
        assert failure.reason == "REPLY_TOO_LARGE"
        assert "BURNISH_SERVER_MAX_MESSAGE_BYTES" in failure.message


async def test_an_empty_collection_has_no_statistics(stub) -> None:
    await create(stub)
    answer = await neighbors(stub)
    assert not answer.HasField("model")
    assert not answer.statistics


async def test_a_search_is_given_up_with_its_call(stub) -> None:
    await create(stub)
    await embed(stub, *(sample(f"s{i}", f"text number {i}") for i in range(6)))
    given_up = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(vectors, k, *, check, **_):
        try:
            while True:
                check()
        finally:
            loop.call_soon_threadsafe(given_up.set)

    with mock.patch("burnish_services.embedding.servicer.nearest_neighbors", endless):
        call = asyncio.ensure_future(neighbors(stub))
        await asyncio.sleep(0.1)
        assert not given_up.is_set()
        call.cancel()
        await asyncio.wait_for(given_up.wait(), 5)
    assert len((await neighbors(stub)).statistics) == 6


@pytest.mark.parametrize("name", ["", "Notes", "a/b", "..", "a.b", "n" * 129, "ü"])
async def test_bad_names_are_refused_everywhere(stub, name: str) -> None:
    calls = [
        create(stub, name),
        stub.GetCollection(pb.GetCollectionRequest(name=name)),
        stub.DeleteCollection(pb.DeleteCollectionRequest(name=name)),
        neighbors(stub, collection=name),
    ]
    if name:
        calls.append(embed(stub, sample("a", "one"), collection=name))
        calls.append(stub.ListCollections(pb.ListCollectionsRequest(page_token=name)))
    for call in calls:
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_NAME")


async def test_bad_requests_are_refused_with_a_reason(stub) -> None:
    await create(stub)
    twice = sample("a", "one")
    cases = [
        (embed(stub), "EMPTY_BATCH"),
        (embed(stub, twice, twice), "DUPLICATE_ID"),
        (embed(stub, *(sample(str(i), "one") for i in range(257))), "TOO_MANY_ITEMS"),
        (embed(stub, sample("a", "one"), collection=""), "NO_RESULT"),
        (neighbors(stub, k=-1), "BAD_K"),
        (neighbors(stub, k=101), "BAD_K"),
        (stub.ListCollections(pb.ListCollectionsRequest(page_size=1001)), "BAD_PAGE_SIZE"),
        (stub.CreateCollection(pb.CreateCollectionRequest(collection=pb.Collection(name="a", source=9))), "BAD_SOURCE"),
        (stub.LoadModel(pb.LoadModelRequest()), "NO_MODEL"),
    ]
    for call, reason in cases:
        failure = await failure_of(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    for call in (embed(stub, sample("a", "one"), collection="nowhere"), neighbors(stub, collection="nowhere")):
        assert (await failure_of(call)).code == grpc.StatusCode.NOT_FOUND


async def test_a_second_server_on_the_same_state_is_told_so_before_it_loads_a_model(
    server: Server, settings: ServerSettings
) -> None:
    flags = ["--roles", "embedding", "--engine", "fake", "--model", settings.model]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "burnish_services", *flags, "--state-dir", str(settings.state_dir), "--grace", "0.2",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, error = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"cannot start: the vector store in" in error
    assert f"process {os.getpid()}, and only one server may write to it".encode() in error
    assert b"listening" not in error


def test_the_largest_reply_is_foreseen() -> None:
    limit, n, k = 64 * 2**20, 60_000, 2
    ids = [f"{i:064x}" for i in range(n)]
    indices = (np.arange(n)[:, None] + np.arange(1, k + 1)) % n
    found = NearestNeighbors(indices, np.full(indices.shape, 0.5))
    reply = pb.GetNeighborStatisticsResponse(statistics=convert.statistics_messages(ids, found, ids, Metric.COSINE))
    assert reply.ByteSize() < limit / 4
    assert pb.GetNeighborStatisticsRequest(sample_ids=ids).ByteSize() < limit / 4
    fits = partial(convert.check_reply_fits, ids, ids)
    fits(2, limit)
    fits(k, reply.ByteSize() * 11 // 10)
    with pytest.raises(InvalidRequest):
        fits(k, reply.ByteSize() - 1)
    with pytest.raises(
        InvalidRequest, match=r"expected k of at most 12, or at most 8305 samples at a time \(query_ids\)"
    ):
        fits(100, limit)
    fits(12, limit)
    convert.check_reply_fits(ids[:8305], ids, 100, limit)
    with pytest.raises(InvalidRequest, match="at most 279620 samples at a time"):
        convert.check_reply_fits(ids * 10, ids * 10, 2, limit)


async def test_metrics_show_what_is_kept(tmp_path: Path) -> None:
    async with seen_services(tmp_path, roles=("embedding",)) as server:
        assert value(await page(server), "burnish_embedding_collections") == 0
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            await create(stub)
            await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=pb.Calibration(name="usual")))
        text = await page(server)
        assert value(text, "burnish_embedding_collections") == 1, "a calibration is none"
        assert value(text, "burnish_embedding_stored_bytes") > 0
        assert "notes" not in text
