"""Reasons of failures that machines go by, each provoked over real gRPC; where the fake engine and the fake trainer
never fail like that, with a stand-in for the part that does."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2
from burnish_services.embedding import layout
from burnish_services.engine import model_store
from burnish_services.engine.base import ModelMismatch
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import FakeEngine, FakeTokenizer, write_fake_model
from burnish_services.engine.object_models import ModelListing
from burnish_services.engine.object_places import ObjectPlace
from burnish_services.engine.objects import ObjectEntry
from burnish_services.engine.tokenizer import Encoding
from burnish_services.runtime import intake
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import Server, running
from burnish_services.training import servicer as training_servicer
from burnish_services.training.followers import Followers
from burnish_services.training.resolve import Site
from burnish_services.training.supervisor import Supervisor
from tests.service.support import failure_of, sample
from tests.service.training_support import Client, client_of, spec, write_jsonl
from tests.service.training_support import sample as row

REQUEST = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")])
PAIR = scoring_pb2.ResponsePair(
    id="p",
    prompt=[common_pb2.Message(role=common_pb2.ROLE_USER, content="Why is the sky blue?")],
    first="Because of scattering.",
    second="It is not.",
)


@pytest.fixture
def scoring(channel: grpc.aio.Channel) -> scoring_pb2_grpc.ScoringServiceAsyncStub:
    return scoring_pb2_grpc.ScoringServiceStub(channel)


# ---- what a call has to bring


async def test_a_call_without_a_message_is_told_so(channel: grpc.aio.Channel) -> None:
    """As a client does that is not generated from the protos."""
    silent = channel.stream_unary("/burnish.api.scoring.v1.ScoringService/ScoreSamples")
    failure = await failure_of(silent(iter(())))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NO_MESSAGE")
    assert not failure.retryable
    assert "without a request message" in failure.message


async def test_a_call_that_is_too_late_is_not_worked(
    server: Server, scoring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a minute is called too little here: what is too little else is over before a test can count on it."""
    worked = []
    score = FakeEngine.score

    async def noted(self: FakeEngine, requests: Any) -> Any:
        worked.append(requests)
        return await score(self, requests)

    monkeypatch.setattr(FakeEngine, "score", noted)
    monkeypatch.setattr(intake, "_TOO_LITTLE_TIME", 60.0)
    failure = await failure_of(scoring.ScoreSamples(REQUEST, timeout=30))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TOO_LATE")
    assert not failure.retryable
    assert "ms of the call's deadline were left when the server came to it; expected 60000 or more" in failure.message
    assert (worked, server.intake.calls) == ([], 0), "nor does it take a place of others"
    for enough in (90, None):
        assert (await scoring.ScoreSamples(REQUEST, timeout=enough)).scores[0].status.code == 0
    assert len(worked) == 2


# ---- answers by letters


async def test_letters_that_the_model_did_not_mean_are_no_preference(scoring: Any) -> None:
    request = scoring_pb2.ComparePairsRequest(pairs=[PAIR], min_covered_mass=0.95)
    (found,) = (await scoring.ComparePairs(request)).preferences  # the fake engine's letters have 0.9
    assert (found.status.code, found.status.reason) == (code_pb2.ABORTED, "LETTERS_UNLIKELY")
    assert "had 0.90 of the probability, at least 0.95 expected" in found.status.message
    request.min_covered_mass = 0.85
    assert (await scoring.ComparePairs(request)).preferences[0].status.code == 0


async def test_a_letter_that_no_single_token_writes_is_named(scoring: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = FakeTokenizer.encode

    def in_pieces(self: FakeTokenizer, text: str, **more: Any) -> Encoding:
        """A vocabulary that writes each C by two tokens."""
        found = encode(self, text, **more)
        pairs = zip(found.ids, found.spans, strict=True)
        parts = [pair for pair in pairs for _ in range(2 if self.decode([pair[0]]).strip() in ("C", "c") else 1)]
        return Encoding([token for token, _ in parts], [span for _, span in parts])

    monkeypatch.setattr(FakeTokenizer, "encode", in_pieces)
    (found,) = (await scoring.ComparePairs(scoring_pb2.ComparePairsRequest(pairs=[PAIR]))).preferences
    assert (found.status.code, found.status.reason) == (code_pb2.FAILED_PRECONDITION, "NO_TOKEN")
    assert "no single token for 'C'" in found.status.message


# ---- models


async def test_a_model_of_another_shape_is_refused_and_the_one_before_serves_on(
    scoring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake models have one shape: a stand-in for an engine that finds another one."""
    other = str(write_fake_model(tmp_path / "other", seed=2))
    swap = FakeEngine.swap

    async def particular(self: FakeEngine, uri: str, digest: str) -> None:
        if uri == other:
            raise ModelMismatch(f"{uri}: hidden_size is 8, expected 4")
        await swap(self, uri, digest)

    before = await scoring.ScoreSamples(REQUEST)
    monkeypatch.setattr(FakeEngine, "swap", particular)
    wanted = scoring_pb2.LoadModelRequest(model=common_pb2.ModelRef(uri=other))
    failure = await failure_of(scoring.LoadModel(wanted))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH")
    assert not failure.retryable
    assert "hidden_size is 8, expected 4" in failure.message
    assert (await scoring.ScoreSamples(REQUEST)).scores == before.scores


async def test_a_model_that_the_cache_has_no_room_for_is_refused(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object storage is played by what it would list: nothing is fetched of a model that is too large."""

    def listed(place: ObjectPlace) -> ModelListing:
        return ModelListing(place, (ObjectEntry(place / "model.safetensors", 2**20 + 1, "e", "now"),))

    monkeypatch.setattr(model_store, "list_model", listed)
    small = settings.model_copy(update={"model_cache_bytes": 2**20})
    async with (
        running(small, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        wanted = scoring_pb2.LoadModelRequest(model=common_pb2.ModelRef(uri="s3://burnish/large"))
        failure = await failure_of(stub.LoadModel(wanted))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_CACHE_FULL")
        assert not failure.retryable
        assert "s3://burnish/large has 1,048,577 bytes, and this server keeps at most 1,048,576" in failure.message
        assert (await stub.ScoreSamples(REQUEST)).scores[0].status.code == 0


# ---- what is stored of embeddings


@pytest.fixture
async def embedding(
    settings: ServerSettings,
) -> AsyncIterator[embedding_pb2_grpc.EmbeddingServiceAsyncStub]:
    alone = settings.model_copy(update={"roles": ("embedding",)})
    async with (
        running(alone, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield embedding_pb2_grpc.EmbeddingServiceStub(channel)


async def test_a_calibration_that_was_made_anew_takes_in_nothing_of_the_one_before(
    embedding: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = embedding_pb2.CreateCalibrationRequest(calibration=embedding_pb2.Calibration(name="usual"))
    await embedding.CreateCalibration(create)
    reading, go = asyncio.Event(), asyncio.Event()

    async def held(self: FakeEngine) -> None:
        reading.set()
        await go.wait()

    monkeypatch.setattr(FakeEngine, "_work", held)
    samples = [sample("a", "Hello", "Hi there, and good day.")]
    measure = embedding_pb2.MeasureSamplesRequest(calibration="usual", samples=samples)
    measuring = embedding.MeasureSamples(measure)
    await asyncio.wait_for(reading.wait(), 10)
    await embedding.DeleteCalibration(embedding_pb2.DeleteCalibrationRequest(name="usual"))
    await embedding.CreateCalibration(create)
    go.set()
    failure = await failure_of(measuring)
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CALIBRATION_CHANGED")
    assert "was deleted and made anew while samples were measured" in failure.message
    await embedding.MeasureSamples(measure)
    found = await embedding.GetCalibration(embedding_pb2.GetCalibrationRequest(name="usual"))
    assert found.calibration.num_samples == 1, "measured again, as the message says"


async def test_a_table_of_another_release_is_not_read(embedding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def create(name: str) -> None:
        wanted = embedding_pb2.Collection(name=name, source=embedding_pb2.TEXT_SOURCE_USER)
        await embedding.CreateCollection(embedding_pb2.CreateCollectionRequest(collection=wanted))

    with monkeypatch.context() as later:
        later.setattr(layout, "_FORMAT", 99)
        await create("newer")
    await create("ours")
    failure = await failure_of(embedding.GetCollection(embedding_pb2.GetCollectionRequest(name="newer")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UNKNOWN_FORMAT")
    assert "table 'newer' is in format 99, expected 1" in failure.message
    await embedding.GetCollection(embedding_pb2.GetCollectionRequest(name="ours"))
    listed = await embedding.ListCollections(embedding_pb2.ListCollectionsRequest())
    assert [one.name for one in listed.collections] == ["ours"], "nobody is kept from the others"
    await embedding.DeleteCollection(embedding_pb2.DeleteCollectionRequest(name="newer"))  # as the message says


# ---- training


@pytest.fixture
def training_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    monkeypatch.setenv("BURNISH_TRAINING_RESTART_DELAY", "0")
    return ServerSettings(roles=("training",), engine="fake", state_dir=tmp_path / "state", grace=2.0)


@pytest.fixture
async def training(training_settings: ServerSettings) -> AsyncIterator[Client]:
    async with client_of(training_settings) as started:
        yield started


@pytest.fixture
def asked(tmp_path: Path) -> training_pb2.RunSpec:
    """A run of ten steps."""
    data = write_jsonl(tmp_path / "data.jsonl", [row(index) for index in range(40)])
    base = write_fake_model(tmp_path / "base", name="base", seed=3)
    return spec(base, data, per_device_batch_size=2, gradient_accumulation_steps=2)


@pytest.fixture
def unworked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are created, and nobody works them."""
    monkeypatch.setattr(Supervisor, "submit", lambda *_: None)


async def test_an_upload_that_cannot_be_written_is_told_apart_from_a_full_disk(training: Client) -> None:
    place = training.server.settings.state_dir / "training" / "data"
    place.write_bytes(b"no directory")
    failure = await failure_of(training.stub.UploadData(iter([training_pb2.UploadDataRequest(chunk=b"{}", last=True)])))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "DATA_NOT_STORED")
    assert not failure.retryable
    assert f"expected a directory {place} that this server may write to" in failure.message
    assert place.read_bytes() == b"no directory"


@pytest.mark.usefixtures("unworked")
async def test_a_request_id_is_for_one_specification(training: Client, asked: training_pb2.RunSpec) -> None:
    run = await training.create("mine", asked)
    assert (await training.create("mine", asked)).run_id == run.run_id
    asked.hyperparameters.seed = 1
    failure = await failure_of(training.create("mine", asked))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_USED")
    assert not failure.retryable
    assert "'mine' was used before, for another specification" in failure.message


@pytest.mark.usefixtures("unworked")
async def test_a_run_that_learns_no_weights_has_none_to_read(training: Client, asked: training_pb2.RunSpec) -> None:
    run = await training.create("plain", asked)
    call = training.stub.ReadSampleWeights(training_pb2.ReadSampleWeightsRequest(run_id=run.run_id))
    failure = await failure_of(call.read())
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_WEIGHTS")
    assert f"run {run.run_id} learns no weights" in failure.message


async def test_a_run_goes_on_only_from_where_it_paused_and_only_once(
    training: Client, asked: training_pb2.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(run: training_pb2.Run, step: int, words: str, responses: str = "") -> None:
        request = training_pb2.ResumeRunRequest(run_id=run.run_id, step=step, responses_uri=responses)
        failure = await failure_of(training.stub.ResumeRun(request))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_PAUSED")
        assert words in failure.message

    asked.bilevel.validation_data_uri = str(write_jsonl(tmp_path / "validation.jsonl", [row(99)]))
    asked.refinement.warmup_steps, asked.refinement.refresh_steps = 3, 4
    with monkeypatch.context() as nobody:
        nobody.setattr(Supervisor, "submit", lambda *_: None)
        await refused(await training.create("unworked", asked), 3, "has never paused, not after step 3")
    run = await training.create("refining", asked)
    watching = training.stub.WatchRun(training_pb2.WatchRunRequest(run_id=run.run_id))
    async for event in watching:
        assert not event.run.HasField("error"), event.run.error
        if event.run.state == training_pb2.STATE_PAUSED:
            watching.cancel()
            break
    await refused(run, 7, "paused after step 3 last, not after step 7")
    resume = training_pb2.ResumeRunRequest(run_id=run.run_id, step=3, last=True)
    for _ in range(2):  # said again, as after a connection that broke
        await training.stub.ResumeRun(resume)
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "s1", "messages": [], "responses": []}])
    await refused(run, 3, "went on from step 3 with other responses already", str(other))


async def test_samples_that_weigh_nothing_are_no_data(
    training: Client, asked: training_pb2.RunSpec, tmp_path: Path
) -> None:
    rows = [{**row(0), "weight": 0}, {**row(1), "weight": 0.0}, {"id": "odd", "messages": []}]
    asked.data_uri = str(write_jsonl(tmp_path / "weightless.jsonl", rows))
    run = await training.finished((await training.create("weightless", asked)).run_id)
    assert (run.error.code, run.error.reason) == (code_pb2.INVALID_ARGUMENT, "NO_DATA")
    assert "(2 ZERO_WEIGHT, 1 BAD_ROLES); the first is 's0': weight is 0" in run.error.message


async def test_a_worker_that_cannot_be_started_ends_its_run(
    training: Client, asked: training_pb2.RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    run = await training.finished((await training.create("unstarted", asked)).run_id)
    assert run.state == training_pb2.STATE_FAILED
    assert (run.error.code, run.error.reason) == (code_pb2.INTERNAL, "WORKER_NOT_STARTED")
    assert "the worker could not be started: FileNotFoundError" in run.error.message


async def test_machines_that_do_not_find_together_are_told(
    training_settings: ServerSettings, asked: training_pb2.RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake trainer knows one machine, and torchrun takes minutes to give up: here two are asked for, the other is
    said to be there, and in the worker's place is what ends before it has met anybody."""

    def of_two_machines(**how: Any) -> Site:
        return Site(**{**how, "nodes": 2, "processes": 2})

    async def all_there(self: Followers, nodes: int, *_: object) -> dict[int, Any]:
        gathered.append(nodes)
        return {}

    gathered: list[int] = []
    nobody = shutil.which("false")
    assert nobody is not None
    monkeypatch.setenv("BURNISH_TRAINING_NODES", "2")
    monkeypatch.setenv("BURNISH_TRAINING_RENDEZVOUS", "leader.internal:29400")
    monkeypatch.setattr(training_servicer, "Site", of_two_machines)
    monkeypatch.setattr(Followers, "gathered", all_there)
    async with client_of(training_settings) as client:
        monkeypatch.setattr(sys, "executable", nobody)
        run = await client.finished((await client.create("apart", asked)).run_id)
    assert run.state == training_pb2.STATE_FAILED
    assert (run.error.code, run.error.reason) == (code_pb2.UNAVAILABLE, "NODES_NOT_MET")
    assert "the 2 machines of the run did not find together, 11 times in a row" in run.error.message
    assert "reach the leader at leader.internal:29400 (BURNISH_TRAINING_RENDEZVOUS)" in run.error.message
    assert gathered == [2] * 11
    assert run.num_resumes == 0, "they are no attempts at the run"
