"""One run trained by two processes: the same loss curve as by one, whoever is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from burnish.api.training.v1 import training_pb2
from burnish_services.runtime.config import ServerSettings
from tests.service.training_support import Client, client_of, sample, spec, worker_process, write_jsonl

pytestmark = [pytest.mark.engine, pytest.mark.slow]

# Five steps an epoch, the last of which has a single batch: the second process has nothing to do there.
HOW: dict[str, Any] = {
    "per_device_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_epochs": 2,
    "learning_rate": 2e-3,
    "checkpoint_steps": 4,
}


async def trained(client: Client, name: str, asked: training_pb2.RunSpec) -> list[training_pb2.Run]:
    """The run after each of its events."""
    runs = [event.run for event in await client.watch((await client.create(name, asked)).run_id)]
    assert runs[-1].state == training_pb2.STATE_SUCCEEDED, runs[-1].error
    return runs


def curve(runs: list[training_pb2.Run]) -> list[float]:
    losses = {run.progress.step: run.progress.loss for run in runs if run.progress.step}
    return [losses[step] for step in sorted(losses)]


async def test_two_processes_train_as_one_does_and_a_crash_changes_nothing(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(base, data, **{**HOW, "num_epochs": 4})  # long enough that what ends it early comes in time
    asked.eval_data_uri = str(write_jsonl(tmp_path / "eval.jsonl", [sample(index) for index in range(100, 106)]))
    async with client_of(settings) as client:
        one = await trained(client, "one", asked)
    monkeypatch.setenv("BURNISH_TRAINING_PROCESSES", "2")
    async with client_of(settings) as client:
        created = await client.create("two", asked)
        await client.until_step(created.run_id, 6)
        ranks = (await worker_process()).children()
        assert len(ranks) == 2
        ranks[1].kill()
        await client.until_step(created.run_id, 8)
        # Now the server stops; both write their part of a checkpoint, and another server takes over.
    async with client_of(settings) as client:
        stopped = await client.get(created.run_id)
        two = await trained(client, "two", asked)
    assert stopped.progress.step >= 8
    assert two[-1].num_resumes == 2
    assert len(curve(two)) == 20
    assert curve(two) == pytest.approx(curve(one), abs=2e-3)
    assert two[-1].result.train_loss == pytest.approx(one[-1].result.train_loss, abs=2e-3)
    assert two[-1].result.eval_loss == pytest.approx(one[-1].result.eval_loss, abs=5e-3)
    assert two[-1].result.num_tokens == one[-1].result.num_tokens


async def test_nothing_is_left_of_a_cancelled_run(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_PROCESSES", "2")
    async with client_of(settings) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="is 3, expected a multiple of 2"):
            await client.create("odd", spec(base, data, gradient_accumulation_steps=3))
        run = await client.create("cancelled", spec(base, data, **{**HOW, "num_epochs": 50}))
        await client.until_step(run.run_id, 2)
        launcher = await worker_process()
        ranks = launcher.children()
        listening = {
            one.laddr.ip
            for process in (launcher, *ranks)
            for one in process.net_connections()
            if one.status == "LISTEN"
        }
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}, "torch's own listens on all addresses"
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=run.run_id))
        assert (await client.finished(run.run_id)).state == training_pb2.STATE_CANCELLED
        _gone, alive = await asyncio.to_thread(psutil.wait_procs, ranks, 10)
    assert not alive, [process.cmdline() for process in alive]


async def test_weights_are_learnt_by_two_processes_as_by_one(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With adapters and an auxiliary model, and fewer validation samples than there are batches."""
    asked = spec(base, data, **{**HOW, "num_epochs": 1})
    asked.lora.rank = 4
    asked.bilevel.auxiliary = True
    asked.bilevel.validation_data_uri = str(write_jsonl(tmp_path / "valid.jsonl", [sample(200)]))
    learnt = []
    for processes in ("1", "2"):
        monkeypatch.setenv("BURNISH_TRAINING_PROCESSES", processes)
        async with client_of(settings) as client:
            run = (await trained(client, f"by {processes}", asked))[-1]
            call = client.stub.ReadSampleWeights(training_pb2.ReadSampleWeightsRequest(run_id=run.run_id))
            learnt.append([one.logit for part in [part async for part in call] for one in part.weights])
    assert len(learnt[0]) == 36
    assert max(learnt[0]) > 0.001
    assert learnt[1] == pytest.approx(learnt[0], abs=1e-3)
