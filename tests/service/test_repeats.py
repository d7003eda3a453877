"""Every RPC that changes something may be sent again, whether or not the first attempt arrived: the same reply, and
nothing happens twice. The SDK's retries stand on this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.fake import write_fake_model
from tests.service.support import sample
from tests.service.test_limits import serving
from tests.service.training_support import sample as training_sample
from tests.service.training_support import write_jsonl

MODULES = (scoring_pb2, embedding_pb2, rewriting_pb2, training_pb2)
# What changes nothing but, at most, which weights are held. The others are in a test below, by their names.
READING = {
    "GetInfo", "LoadModel", "ScoreSamples", "JudgeSamples", "EstimateConfidence", "ComparePairs", "RewriteSamples",
    "GenerateResponses", "GetCollection", "ListCollections", "GetNeighborStatistics", "SelectCoverage",
    "ProjectSamples", "GetCalibration", "ListCalibrations", "GetRun", "ListRuns", "WatchRun", "ReadSampleWeights",
}  # fmt: skip
WRITING = {
    "CreateCollection", "DeleteCollection", "EmbedSamples", "CreateCalibration", "MeasureSamples", "FinishCalibration",
    "DeleteCalibration", "UploadData", "CreateRun", "ResumeRun", "CancelRun",
}  # fmt: skip


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(tmp_path) as (_, open_channel):
        yield open_channel


def test_every_rpc_is_known_here() -> None:
    services = [service for module in MODULES for service in module.DESCRIPTOR.services_by_name.values()]
    assert {method.name for service in services for method in service.methods} == READING | WRITING


async def twice(method: Any, request: Any) -> Any:
    """The reply to a call that is sent twice at once and then once more; all replies must be the same but for times."""
    both = await asyncio.gather(method(request), method(request))
    replies = [*both, await method(request)]
    for reply in replies:
        if "timing" in reply.DESCRIPTOR.fields_by_name:
            reply.ClearField("timing")
    assert replies[0] == replies[1] == replies[2]
    return replies[0]


async def test_collections(channel: grpc.aio.Channel) -> None:
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    wanted = embedding_pb2.Collection(name="texts")
    await twice(stub.CreateCollection, embedding_pb2.CreateCollectionRequest(collection=wanted))
    listed = (await stub.ListCollections(embedding_pb2.ListCollectionsRequest())).collections
    assert [one.name for one in listed] == ["texts"]
    request = embedding_pb2.EmbedSamplesRequest(
        collection="texts", samples=[sample(f"s{n}", f"Question {n}?", "Yes") for n in range(20)], return_vectors=True
    )
    embedded = await asyncio.gather(stub.EmbedSamples(request), stub.EmbedSamples(request))
    embedded.append(await stub.EmbedSamples(request))
    vectors = [[one.vector for one in reply.embeddings] for reply in embedded]
    assert vectors[0] == vectors[1] == vectors[2]
    assert embedded[2].num_stored == 0, "it was there already"
    kept = (await stub.GetCollection(embedding_pb2.GetCollectionRequest(name="texts"))).collection
    assert kept.num_vectors == 20
    await twice(stub.DeleteCollection, embedding_pb2.DeleteCollectionRequest(name="texts"))
    assert not (await stub.ListCollections(embedding_pb2.ListCollectionsRequest())).collections


async def test_calibrations(channel: grpc.aio.Channel) -> None:
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    wanted = embedding_pb2.Calibration(name="usual")
    await twice(stub.CreateCalibration, embedding_pb2.CreateCalibrationRequest(calibration=wanted))
    samples = [sample(f"s{n}", f"Question {n}?", "An answer of some words, and more") for n in range(8)]
    measure = embedding_pb2.MeasureSamplesRequest(calibration="usual", samples=samples)
    measured = [*await asyncio.gather(stub.MeasureSamples(measure), stub.MeasureSamples(measure))]
    measured.append(await stub.MeasureSamples(measure))
    assert all(one.status.code == 0 for reply in measured for one in reply.measurements)
    found = (await stub.GetCalibration(embedding_pb2.GetCalibrationRequest(name="usual"))).calibration
    assert found.num_samples == 8
    finished = await twice(stub.FinishCalibration, embedding_pb2.FinishCalibrationRequest(name="usual"))
    assert finished.calibration.version
    assert finished.calibration.num_samples == 8
    await twice(stub.DeleteCalibration, embedding_pb2.DeleteCalibrationRequest(name="usual"))
    assert not (await stub.ListCalibrations(embedding_pb2.ListCalibrationsRequest())).calibrations


async def test_uploads(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    stub = training_pb2_grpc.TrainingServiceStub(channel)
    parts = [training_pb2.UploadDataRequest(chunk=b"{}\n"), training_pb2.UploadDataRequest(chunk=b"{}\n", last=True)]
    await twice(lambda given: stub.UploadData(iter(given)), parts)
    assert len(list((tmp_path / "state" / "training" / "data").iterdir())) == 1


def spec(folder: Path, **fields: Any) -> training_pb2.RunSpec:
    """A run on data of 40 samples."""
    base = write_fake_model(folder / "base", seed=3)
    data = write_jsonl(folder / "data.jsonl", [training_sample(index) for index in range(40)])
    return training_pb2.RunSpec(base_model=common_pb2.ModelRef(uri=str(base)), data_uri=str(data), **fields)


async def test_creating_and_cancelling_runs(
    channel: grpc.aio.Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = training_pb2_grpc.TrainingServiceStub(channel)
    long = spec(tmp_path, hyperparameters=training_pb2.Hyperparameters(num_epochs=10_000))
    request = training_pb2.CreateRunRequest(request_id="once", spec=long)
    replies = await asyncio.gather(*(stub.CreateRun(request) for _ in range(3)))
    run_id = replies[0].run.run_id
    assert {reply.run.run_id for reply in replies} == {run_id}
    assert (await stub.CreateRun(request)).run.run_id == run_id
    assert len((await stub.ListRuns(training_pb2.ListRunsRequest())).runs) == 1
    cancel = training_pb2.CancelRunRequest(run_id=run_id)
    await asyncio.gather(stub.CancelRun(cancel), stub.CancelRun(cancel))
    events = [event async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id))]
    again = await stub.CancelRun(cancel)
    assert again.run.state == training_pb2.STATE_CANCELLED
    assert [event.event for event in events] == list(range(1, len(events) + 1))
    assert [event.run.state for event in events].count(training_pb2.STATE_CANCELLED) == 1
    assert (await stub.CreateRun(request)).run.state == training_pb2.STATE_CANCELLED, "it is not begun anew"


async def test_resuming_a_run(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    stub = training_pb2_grpc.TrainingServiceStub(channel)
    validation = write_jsonl(tmp_path / "validation.jsonl", [training_sample(index) for index in range(8)])
    refining = spec(
        tmp_path,
        bilevel=training_pb2.BilevelSelection(validation_data_uri=str(validation)),
        refinement=training_pb2.SelfRefinement(warmup_steps=1, refresh_steps=1000),
    )
    created = await stub.CreateRun(training_pb2.CreateRunRequest(request_id="refining", spec=refining))
    run_id, watch = created.run.run_id, stub.WatchRun(training_pb2.WatchRunRequest(run_id=created.run.run_id))
    async for event in watch:
        assert event.run.state != training_pb2.STATE_FAILED, event.run.error
        if event.run.state == training_pb2.STATE_PAUSED:
            break
    resume = training_pb2.ResumeRunRequest(run_id=run_id, step=event.run.pause.step, last=True)
    await asyncio.gather(stub.ResumeRun(resume), stub.ResumeRun(resume))
    await stub.ResumeRun(resume)
    states = [event.run.state async for event in watch]
    assert states[-1] == training_pb2.STATE_SUCCEEDED
    assert training_pb2.STATE_PAUSED not in states
    assert (await stub.ResumeRun(resume)).run.state == training_pb2.STATE_SUCCEEDED, "it has had these responses"


async def test_loading_a_model(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    other = common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "other", seed=9)))
    assert (await twice(stub.LoadModel, scoring_pb2.LoadModelRequest(model=other))).model.uri == other.uri
