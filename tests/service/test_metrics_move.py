"""Metrics seen to move: from what they are on a server where all is well to what they are once it is not, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.base import Task
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import FakeEngine, write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import Server, running
from burnish_services.training import state
from burnish_services.training.state import Progress, Snapshot
from tests.service.seeing import page, page_with, seen_services, value
from tests.service.support import failure_of, sample
from tests.service.training_support import Client, spec, worker_process, write_jsonl
from tests.service.training_support import sample as row
from tests.waiting import until

REQUEST = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")])
MIB = 2**20


@asynccontextmanager
async def scoring(folder: Path, *roles: str) -> AsyncIterator[tuple[Server, Any]]:
    async with (
        seen_services(folder, roles=("scoring", *roles)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield server, scoring_pb2_grpc.ScoringServiceStub(channel)


@asynccontextmanager
async def training(folder: Path) -> AsyncIterator[Client]:
    async with (
        seen_services(folder, roles=("training",)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Client(training_pb2_grpc.TrainingServiceStub(channel), server)  # type: ignore[arg-type]


async def test_each_engine_that_is_started_anew_is_counted(tmp_path: Path) -> None:
    dead = common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "dead", seed=3, fault="dead")))
    async with scoring(tmp_path) as (server, stub):
        assert value(await page(server), "burnish_engine_restarts_total") == 0
        await stub.LoadModel(scoring_pb2.LoadModelRequest(model=dead))
        for times in (1, 2):  # it dies of the first request after each start
            assert (await failure_of(stub.ScoreSamples(REQUEST))).reason == "ENGINE_RESTARTING"
            text = await page(server)
            assert value(text, "burnish_engine_restarts_total", task="pool") == times
            assert value(text, "burnish_engine_restarts_total", task="generate") == 0


async def test_a_defect_is_a_fault_of_the_server_and_a_bad_request_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: FakeEngine, requests: object) -> None:
        raise ZeroDivisionError("a defect")

    async with scoring(tmp_path, "rewriting") as (server, stub):
        assert (await failure_of(stub.ScoreSamples(scoring_pb2.ScoreSamplesRequest()))).reason != "INTERNAL"
        text = await page_with(server, 'code="INVALID_ARGUMENT"')
        assert value(text, "burnish_server_faults_total") == 0
        monkeypatch.setattr(FakeEngine, "score", broken)
        for times in (1, 2):
            assert (await failure_of(stub.ScoreSamples(REQUEST))).reason == "INTERNAL"
            text = await page_with(server, f'code="INTERNAL",method="ScoreSamples",service="scoring"}} {times}.0')
            assert value(text, "burnish_server_faults_total", service="scoring") == times
        assert value(text, "burnish_server_faults_total", service="rewriting") == 0


async def test_who_waits_for_other_weights_is_counted_while_they_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "other", seed=2)))
    working, go = asyncio.Event(), asyncio.Event()

    async def held(self: FakeEngine) -> None:
        working.set()
        await go.wait()

    async with scoring(tmp_path) as (server, stub):
        assert value(await page(server), "burnish_model_waiting_requests") == 0
        monkeypatch.setattr(FakeEngine, "_work", held)
        calls = [asyncio.ensure_future(stub.ScoreSamples(REQUEST))]
        await asyncio.wait_for(working.wait(), 10)
        assert value(await page(server), "burnish_model_waiting_requests") == 0, "its weights are there"
        pool = server.engines.host(Task.POOL)
        wanting = scoring_pb2.ScoreSamplesRequest(samples=REQUEST.samples, model=other)
        for times in (1, 2):
            calls.append(asyncio.ensure_future(stub.ScoreSamples(wanting)))
            await until(lambda times=times: pool.waiting == times)
            text = await page(server)
            assert value(text, "burnish_model_waiting_requests", task="pool") == times
            assert value(text, "burnish_model_waiting_requests", task="generate") == 0
        go.set()
        assert [reply.scores[0].status.code for reply in await asyncio.gather(*calls)] == [0, 0, 0]
        assert value(await page(server), "burnish_model_waiting_requests") == 0


async def test_each_worker_that_dies_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_RESTART_DELAY", "0")
    monkeypatch.setenv("BURNISH_TRAINING_MAX_RESTARTS", "1")
    base = write_fake_model(tmp_path / "dead", fault="dead")
    data = write_jsonl(tmp_path / "data.jsonl", [row(index) for index in range(8)])
    async with training(tmp_path) as client:
        assert value(await page(client.server), "burnish_training_worker_crashes_total") == 0
        run = await client.finished((await client.create("dead", spec(base, data))).run_id)
        assert run.error.reason == "WORKER_CRASHED"
        text = await page(client.server)
        assert value(text, "burnish_training_worker_crashes_total") == 2
        assert value(text, "burnish_training_runs_ended_total", state="failed") == 1


async def test_the_run_at_work_shows_its_pace_and_its_memory_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples are all alike, so that each step has as many tokens. Memory of a device, of which the fake trainer
    has none, is added to what it tells."""
    progressed = state.progressed

    def on_a_device(now: Snapshot, progress: Progress) -> Snapshot:
        return progressed(now, replace(progress, device_memory_bytes=7 * MIB))

    monkeypatch.setattr(state, "progressed", on_a_device)
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.25")
    base = write_fake_model(tmp_path / "base")
    data = write_jsonl(tmp_path / "data.jsonl", [row(1)] * 8)
    asked = spec(base, data, per_device_batch_size=2, gradient_accumulation_steps=1, num_epochs=500)
    async with training(tmp_path) as client:
        before = await page(client.server)
        assert value(before, "burnish_training_tokens_per_second") == 0
        assert value(before, "burnish_training_device_memory_bytes") == 0

        run = await client.until_step((await client.create("paced", asked)).run_id, 1)
        during = await page(client.server)
        assert run.progress.tokens_per_second > 8
        assert value(during, "burnish_training_tokens_per_second") == pytest.approx(run.progress.tokens_per_second)
        assert value(during, "burnish_training_device_memory_bytes") == 7 * MIB
        worker = await worker_process()
        children = value(before, "burnish_child_processes")
        assert value(during, "burnish_child_processes") == children + 1
        resident = "burnish_child_processes_resident_memory_bytes"
        assert value(during, resident) - value(before, resident) > 4 * MIB, "a Python process has more"
        assert value(during, resident) < value(before, resident) + 2 * worker.memory_info().rss

        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=run.run_id))
        await client.finished(run.run_id)
        after = await page(client.server)
        assert value(after, "burnish_training_tokens_per_second") == 0
        assert value(after, "burnish_training_device_memory_bytes") == 0
        assert value(after, "burnish_child_processes") == children
        assert value(after, resident) < value(during, resident) - 4 * MIB


async def test_the_release_that_runs_is_told(settings: ServerSettings) -> None:
    shown = settings.model_copy(update={"metrics_port": 0})
    for version in ("1.2.3", "1.2.4"):
        async with running(shown, partial(create_engine, "fake"), version=version) as server:
            text = await page(server)
            assert value(text, "burnish_server_info", version=version) == 1
            assert text.count("burnish_server_info{") == 1
