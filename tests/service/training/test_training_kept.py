"""What the service keeps of runs and uploads, and for how long: over real gRPC, with the fake trainer."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from burnish.api.training.v1 import training_pb2 as pb
from burnish_services.runtime.config import ServerSettings
from burnish_services.training import pausing, supervisor
from burnish_services.training.runs import RunStore
from tests.service.seeing import page, value
from tests.service.support import failure_of
from tests.service.training_support import Client, client_of, sample, spec, write_jsonl
from tests.waiting import until

MOMENT = "0.001"  # seconds that are over when anybody looks


@pytest.fixture
def refining(base: Path, data: Path, tmp_path: Path) -> pb.RunSpec:
    """A run of ten steps that pauses after three and after seven."""
    asked = spec(base, data, per_device_batch_size=2, gradient_accumulation_steps=2)
    asked.bilevel.validation_data_uri = str(write_jsonl(tmp_path / "validation.jsonl", [sample(99)]))
    asked.refinement.warmup_steps, asked.refinement.refresh_steps = 3, 4
    return asked


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "responses.jsonl", [{"id": "s1", "messages": [], "responses": []}])


def often_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_SWEEP_SECONDS", 0.02)


def folder(settings: ServerSettings, run: pb.Run) -> Path:
    return settings.state_dir / "training" / run.run_id


def elsewhere(base: Path, data: Path, output: Path) -> pb.RunSpec:
    asked = spec(base, data)
    asked.output_uri = str(output)
    return asked


async def until_paused(client: Client, run_id: str, step: int) -> pb.Run:
    call = client.stub.WatchRun(pb.WatchRunRequest(run_id=run_id))
    async for event in call:
        if event.run.state == pb.STATE_PAUSED and event.run.pause.step == step:
            call.cancel()
            return event.run
    raise AssertionError("it ended without a pause")


async def refined(client: Client, name: str, asked: pb.RunSpec, responses: Path) -> pb.Run:
    """A run that was given the same responses at both of its pauses, and has ended."""
    run = await client.create(name, asked)
    for step in (3, 7):
        await until_paused(client, run.run_id, step)
        await client.stub.ResumeRun(resume_with(run, step, responses))
    return await client.finished(run.run_id)


def resume_with(run: pb.Run, step: int, responses: Path) -> pb.ResumeRunRequest:
    return pb.ResumeRunRequest(run_id=run.run_id, step=step, responses_uri=str(responses))


async def test_runs_that_ended_long_ago_are_removed_but_for_the_newest_and_those_that_hold_their_model(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = elsewhere(base, data, tmp_path / "out")
    async with client_of(settings) as client:
        old = await client.finished((await client.create("old", asked)).run_id)
        holder = await client.finished((await client.create("holder", spec(base, data))).run_id)
        last = await client.finished((await client.create("last", elsewhere(base, data, tmp_path / "last"))).run_id)
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_ENDED_SECONDS", MOMENT)
    async with client_of(settings) as client:
        failure = await failure_of(client.get(old.run_id))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        assert not folder(settings, old).exists()
        assert (tmp_path / "out/burnish.json").is_file()
        assert (await client.get(holder.run_id)).result == holder.result
        assert holder.result.model.uri == str(folder(settings, holder) / "model")
        assert (folder(settings, holder) / "model/burnish.json").is_file()
        # The same request is a new run now, which makes the same model, under a number of its own.
        again = await client.finished((await client.create("old", asked)).run_id)
        assert again.result.model == old.result.model
        assert again.create_time.ToNanoseconds() > last.create_time.ToNanoseconds()
        page = await client.stub.ListRuns(pb.ListRunsRequest())
        assert [run.run_id for run in page.runs][:1] == [again.run_id]
    left = RunStore(settings.state_dir / "training")
    left.load()
    assert left.last_sequence == 4


@pytest.mark.parametrize("setting", ["0", "3600"])
async def test_runs_stay_for_as_long_as_is_said(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_ENDED_SECONDS", setting)
    often_swept(monkeypatch)
    async with client_of(settings) as client:
        old = await client.finished((await client.create("old", elsewhere(base, data, tmp_path / "out"))).run_id)
        await client.finished((await client.create("last", elsewhere(base, data, tmp_path / "last"))).run_id)
        await asyncio.sleep(0.1)
        assert (await client.get(old.run_id)).state == pb.STATE_SUCCEEDED


async def test_an_idle_service_sweeps_too(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often_swept(monkeypatch)
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_ENDED_SECONDS", "1")
    async with client_of(settings) as client:
        for name in ("old", "last"):
            await client.finished((await client.create(name, elsewhere(base, data, tmp_path / name))).run_id)
        await client.stub.UploadData(iter([pb.UploadDataRequest(chunk=b"{}", last=True)]))
        (kept,) = (settings.state_dir / "training/data").iterdir()
        long_ago = kept.stat().st_mtime - 25 * 3600
        os.utime(kept, (long_ago, long_ago))
        await until(lambda: not kept.exists())
        await until(lambda: len(list((settings.state_dir / "training").glob("run-*"))) == 1)


async def test_responses_go_with_the_end_of_their_run_and_can_still_be_given_again(
    settings: ServerSettings, refining: pb.RunSpec, responses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is hashed though its digest is known")

    monkeypatch.setattr(pausing, "file_digest", refuse)
    often_swept(monkeypatch)
    async with client_of(settings) as client:
        run = await refined(client, "refining", refining, responses)
        assert run.state == pb.STATE_SUCCEEDED, run.error
        pools = folder(settings, run) / "pools"
        await until(lambda: not list(pools.glob("*.jsonl")))
        assert sorted(path.name for path in pools.iterdir()) == ["3.digest", "7.digest"]
        for step in (3, 7):
            reply = await client.stub.ResumeRun(resume_with(run, step, responses))
            assert reply.run.state == pb.STATE_SUCCEEDED
        other = write_jsonl(tmp_path / "other.jsonl", [{"id": "s2", "messages": [], "responses": []}])
        failure = await failure_of(client.stub.ResumeRun(resume_with(run, 3, other)))
        assert "went on from step 3 with other responses already" in failure.message
        failure = await failure_of(client.stub.ResumeRun(resume_with(run, 5, responses)))
        assert failure.reason == "NOT_PAUSED"


async def test_a_run_of_an_earlier_release_is_known_by_its_responses(
    settings: ServerSettings, refining: pb.RunSpec, responses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It noted no digests, neither of a run that is still at it nor of one that has ended."""

    def as_before(given: pb.Run) -> None:
        pools = folder(settings, given) / "pools"
        for path in pools.glob("*.digest"):
            path.unlink()
            path.with_suffix(".jsonl").write_bytes(responses.read_bytes())

    async with client_of(settings) as client:
        ended = await refined(client, "ended", refining, responses)
        running = await client.create("running", refining)
        await until_paused(client, running.run_id, 3)
        await client.stub.ResumeRun(resume_with(running, 3, responses))
        await until_paused(client, running.run_id, 7)
    as_before(ended)
    as_before(running)
    async with client_of(settings) as client:
        for run in (ended, running):
            await client.stub.ResumeRun(resume_with(run, 3, responses))
        assert (await client.get(running.run_id)).state == pb.STATE_PAUSED
        await client.stub.ResumeRun(resume_with(running, 7, responses))
        after = await client.finished(running.run_id)
    assert after.result.model.digest == ended.result.model.digest
    assert not list(folder(settings, ended).glob("pools/*.jsonl"))


async def test_a_run_that_is_paused_for_too_long_is_cancelled_and_says_why(
    settings: ServerSettings, refining: pb.RunSpec, responses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(settings) as client:
        run = await client.create("forgotten", refining)
        await until_paused(client, run.run_id, 3)
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_PAUSED_SECONDS", "0")
    async with client_of(settings) as client:
        assert (await client.get(run.run_id)).state == pb.STATE_PAUSED, "0 is for ever"
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_PAUSED_SECONDS", "0.5")
    often_swept(monkeypatch)
    await asyncio.sleep(0.6)  # with no service that could have been given anything
    async with client_of(settings) as client:
        assert (await client.get(run.run_id)).state == pb.STATE_PAUSED
        ended = await client.finished(run.run_id)
        assert (ended.state, ended.error.reason) == (pb.STATE_CANCELLED, "PAUSED_TOO_LONG")
        assert "since its pause after step 3" in ended.error.message
        assert "BURNISH_TRAINING_KEEP_PAUSED_SECONDS" in ended.error.message
        kept = [folder(settings, run) / name for name in ("paused", "checkpoints")]
        await until(lambda: not any(path.exists() for path in kept))  # once that is told
        failure = await failure_of(client.stub.ResumeRun(resume_with(run, 3, responses)))
        assert failure.reason == "NOT_PAUSED"
        assert "is cancelled, and waits for no responses any more" in failure.message


async def test_a_run_that_is_given_up_while_its_responses_arrive_is_not_begun_again(
    settings: ServerSettings, refining: pb.RunSpec, responses: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often_swept(monkeypatch)
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_PAUSED_SECONDS", "3")
    given_up = threading.Event()

    def slow(*given: Any, **named: Any) -> None:
        given_up.wait(30)
        pausing.write_pool(*given, **named)

    monkeypatch.setattr("burnish_services.training.servicer.write_pool", slow)
    async with client_of(settings) as client:
        run = await client.create("late", refining)
        await until_paused(client, run.run_id, 3)
        resuming = asyncio.ensure_future(failure_of(client.stub.ResumeRun(resume_with(run, 3, responses))))
        assert (await client.finished(run.run_id)).state == pb.STATE_CANCELLED
        given_up.set()
        assert (await resuming).reason == "NOT_PAUSED"
        assert (await client.get(run.run_id)).state == pb.STATE_CANCELLED


async def test_uploads_are_refused_beyond_what_is_kept_together(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_MAX_STORED_BYTES", "1000")

    def upload(content: bytes) -> list[pb.UploadDataRequest]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return [pb.UploadDataRequest(digest=digest, chunk=content, last=True)]

    async with client_of(settings.model_copy(update={"metrics_port": 0})) as client:
        assert value(await page(client.server), "burnish_training_stored_bytes") == 0
        first = await client.stub.UploadData(iter(upload(b"a" * 700)))
        assert value(await page(client.server), "burnish_training_stored_bytes") == 700
        failure = await failure_of(client.stub.UploadData(iter(upload(b"b" * 700))))
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL")
        assert not failure.retryable
        assert "keeps 700 bytes" in failure.message
        assert "expected at most 1,000 together" in failure.message
        assert "BURNISH_TRAINING_MAX_STORED_BYTES" in failure.message
        assert await client.stub.UploadData(iter(upload(b"a" * 700))) == first, "it is there already"
        (kept,) = (settings.state_dir / "training/data").iterdir()
        long_ago = kept.stat().st_mtime - 25 * 3600
        os.utime(kept, (long_ago, long_ago))
        await client.stub.UploadData(iter(upload(b"b" * 700)))
        assert not kept.exists()
