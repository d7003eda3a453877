"""A server process that is killed while a run is worked, and the one that comes after it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psutil

from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.fake import write_fake_model
from tests.service.training_support import Client, sample, spec, write_jsonl


@asynccontextmanager
async def process(state: Path) -> AsyncIterator[tuple[Client, psutil.Popen]]:
    """A server process with the training role, and a client of it; killed at the end if it still runs."""
    ready = state / "ready.json"
    ready.unlink(missing_ok=True)
    server = psutil.Popen(
        [sys.executable, "-m", "burnish_services", "--roles", "training", "--engine", "fake",
         "--state-dir", str(state), "--ready-file", str(ready)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "BURNISH_TRAINING_FAKE_STEP_SECONDS": "0.05"},
    )  # fmt: skip
    try:
        for _ in range(600):
            if ready.exists():
                break
            await asyncio.sleep(0.05)
        async with grpc.aio.insecure_channel(json.loads(ready.read_text())["address"]) as channel:
            yield Client(training_pb2_grpc.TrainingServiceStub(channel), None), server  # type: ignore[arg-type]
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()


async def test_a_killed_server_takes_its_worker_along_and_the_next_one_goes_on(tmp_path: Path) -> None:
    base = write_fake_model(tmp_path / "base")
    data = write_jsonl(tmp_path / "data.jsonl", [sample(index) for index in range(30)])
    asked = spec(base, data, per_device_batch_size=1, gradient_accumulation_steps=1, checkpoint_steps=4)
    state = tmp_path / "state"
    state.mkdir()
    async with process(state) as (client, server):
        run = await client.create("killed", asked)
        waiting = await client.create("waiting", asked)
        await client.until_step(run.run_id, 10)
        (worker,) = server.children()
        server.kill()
        psutil.wait_procs([worker], timeout=5)
        assert not worker.is_running(), "the worker outlived its server"

    async with process(state) as (client, _):
        events = await client.watch(run.run_id)
        assert [event.event for event in events] == list(range(1, len(events) + 1))
        ended = events[-1].run
        assert ended.state == training_pb2.STATE_SUCCEEDED, ended.error
        assert ended.num_resumes == 1
        calm = await client.finished(waiting.run_id)
        assert calm.num_resumes == 0
        assert ended.result.model.digest == calm.result.model.digest
        assert ended.result.train_loss == calm.result.train_loss
        resumed = [event.run.progress.step for event in events if event.run.num_resumes == 1]
        assert resumed[-1] == 30
        assert min(resumed) >= 8, "it began anew instead of going on"
