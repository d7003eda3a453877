"""What a failed run leaves, and who goes on from it: over real gRPC, with the fake trainer and real signals."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from google.rpc import code_pb2

from burnish.api.training.v1 import training_pb2
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.training.events import EventLog
from tests.service.training_support import Client, client_of, spec, worker_process

HOW = {"per_device_batch_size": 1, "gradient_accumulation_steps": 2, "num_epochs": 2, "checkpoint_steps": 5}
FAILED, SUCCEEDED = training_pb2.STATE_FAILED, training_pb2.STATE_SUCCEEDED


@pytest.fixture(autouse=True)
def _one_crash_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_MAX_RESTARTS", "0")
    monkeypatch.setenv("BURNISH_TRAINING_FAKE_STEP_SECONDS", "0.02")


@pytest.fixture
def trusted(data: Path) -> Path:
    path = data.with_name("trusted.jsonl")
    path.write_text(data.read_text().replace("number", "letter"))
    return path


async def crashed(client: Client, name: str, asked: training_pb2.RunSpec, step: int) -> training_pb2.Run:
    """A run whose worker is killed after so many steps."""
    run = await client.create(name, asked)
    await client.until_step(run.run_id, step)
    (await worker_process()).kill()
    ended = await client.finished(run.run_id)
    assert (ended.state, ended.error.reason) == (FAILED, "WORKER_CRASHED")
    return ended


def checkpoints(settings: ServerSettings, run: training_pb2.Run) -> Path:
    return settings.state_dir / "training" / run.run_id / "checkpoints"


def first_step(events: list[training_pb2.WatchRunResponse]) -> int:
    return min(event.run.progress.step for event in events if event.run.progress.total_steps)


async def test_the_next_run_of_the_same_kind_goes_on_from_the_last_checkpoint(
    settings: ServerSettings, base: Path, data: Path, trusted: Path
) -> None:
    asked = spec(base, data, **HOW)
    asked.bilevel.validation_data_uri = str(trusted)
    async with client_of(settings) as client:
        calm = await client.watch((await client.create("calm", asked)).run_id)
        failed = await crashed(client, "a1", asked, 13)
        assert "Its last checkpoint, after step 10, is kept" in failed.error.message
        assert f"or call CancelRun for {failed.run_id}" in failed.error.message
    async with client_of(settings) as client:  # nor is it lost when the server is started anew
        failed_again = await crashed(client, "a2", asked, 17)
        assert not checkpoints(settings, failed).exists()
        assert "after step 15, is kept" in failed_again.error.message
        events = await client.watch((await client.create("a3", asked)).run_id)
        asking = [training_pb2.ReadSampleWeightsRequest(run_id=one[-1].run.run_id) for one in (calm, events)]
        weights = [[part async for part in client.stub.ReadSampleWeights(one)] for one in asking]
    ended = events[-1].run
    assert ended.state == SUCCEEDED, ended.error
    assert first_step(events) == 15
    assert ended.num_resumes == 0
    assert ended.result.model.digest == calm[-1].run.result.model.digest
    assert ended.result.train_loss == calm[-1].run.result.train_loss
    assert weights[0] == weights[1]
    assert [step.step for step in weights[0]] == [20, 40]
    assert not list((settings.state_dir / "training").rglob("checkpoint-*"))


async def test_what_was_not_saved_is_not_gone_on_from(settings: ServerSettings, base: Path, data: Path) -> None:
    """Nor is the time of the run before counted then."""
    async with client_of(settings) as client:
        failed = await crashed(client, "one", spec(base, data, **HOW), 3)
        assert "is kept" not in failed.error.message
        checkpoints(settings, failed).mkdir(exist_ok=True)
        events = await client.watch((await client.create("two", spec(base, data, **HOW))).run_id)
    assert first_step(events) <= 1


async def test_an_end_that_no_disk_has_is_left_alone(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next server would take that run up again, and must find its checkpoint."""
    real = EventLog._write

    def full(log: EventLog, lines: bytes, durable: bool) -> None:
        if b'"failed"' in lines:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(log, lines, durable)

    monkeypatch.setattr(EventLog, "_write", full)
    async with client_of(settings) as client:
        failed = await crashed(client, "one", spec(base, data, **HOW), 8)
        events = await client.watch((await client.create("two", spec(base, data, **HOW))).run_id)
        assert first_step(events) <= 1
        monkeypatch.setattr(EventLog, "_write", real)
        events = await client.watch((await client.create("three", spec(base, data, **HOW))).run_id)
        assert first_step(events) == 5
    assert not checkpoints(settings, failed).exists()


async def test_a_failed_run_that_was_cancelled_stays_so(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was in memory only, for want of room, which there is once its checkpoint is gone."""
    real, full = EventLog._write, [True]

    def write(log: EventLog, lines: bytes, durable: bool) -> None:
        if full and b'"failed"' in lines:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(log, lines, durable)

    monkeypatch.setattr(EventLog, "_write", write)
    async with client_of(settings) as client:
        failed = await crashed(client, "one", spec(base, data, **HOW), 8)
        full.clear()
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=failed.run_id))
    async with client_of(settings) as client:
        assert (await client.get(failed.run_id)).state == FAILED


@pytest.mark.parametrize("lacking", ["links", "everything"])
async def test_what_cannot_be_taken_over_fails_nobody(
    settings: ServerSettings, base: Path, data: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    asked = spec(base, data, **HOW)
    asked.bilevel.validation_data_uri = str(trusted)
    async with client_of(settings) as client:
        await crashed(client, "one", asked, 28)
        monkeypatch.setattr("os.link" if lacking == "links" else "shutil.copytree", refuse)
        events = await client.watch((await client.create("two", asked)).run_id)
    assert events[-1].run.state == SUCCEEDED, events[-1].run.error
    assert first_step(events) == (25 if lacking == "links" else 0)


async def test_who_does_not_want_it_cancels_the_failed_run(settings: ServerSettings, base: Path, data: Path) -> None:
    async with client_of(settings) as client:
        failed = await crashed(client, "one", spec(base, data, **HOW), 8)
        reply = await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=failed.run_id))
        assert reply.run.state == FAILED
        assert not checkpoints(settings, failed).exists()
        events = await client.watch((await client.create("two", spec(base, data, **HOW))).run_id)
    assert first_step(events) <= 1
    assert events[-1].run.state == SUCCEEDED


async def test_it_is_kept_for_a_while_only(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(settings) as client:
        failed = await crashed(client, "one", spec(base, data, **HOW), 8)
    assert checkpoints(settings, failed).is_dir()
    monkeypatch.setenv("BURNISH_TRAINING_KEEP_FAILED_SECONDS", "0")
    async with client_of(settings) as client:
        assert not checkpoints(settings, failed).exists()
        again = await crashed(client, "two", spec(base, data, **HOW), 8)
    assert "is kept" not in again.error.message
    assert not checkpoints(settings, again).exists()


async def test_what_would_fail_again_leaves_nothing(settings: ServerSettings, data: Path, tmp_path: Path) -> None:
    base = write_fake_model(tmp_path / "nan", fault="nan")
    async with client_of(settings) as client:
        run = await client.finished((await client.create("nan", spec(base, data, **HOW))).run_id)
    assert (run.state, run.error.code) == (FAILED, code_pb2.DATA_LOSS)
    assert not checkpoints(settings, run).exists()
    assert "is kept" not in run.error.message
