"""What the tests of the training service share: data files, requests, and finding the worker process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import psutil

from burnish.api.common.v1 import common_pb2
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import Server, running

ENDED = {training_pb2.STATE_SUCCEEDED, training_pb2.STATE_FAILED, training_pb2.STATE_CANCELLED}


@dataclass
class Client:
    """Calls to one server."""

    stub: training_pb2_grpc.TrainingServiceAsyncStub
    server: Server

    async def create(self, request_id: str, spec: training_pb2.RunSpec) -> training_pb2.Run:
        reply = await self.stub.CreateRun(training_pb2.CreateRunRequest(request_id=request_id, spec=spec))
        return reply.run

    async def get(self, run_id: str) -> training_pb2.Run:
        return (await self.stub.GetRun(training_pb2.GetRunRequest(run_id=run_id))).run

    async def watch(self, run_id: str, from_event: int = 0) -> list[training_pb2.WatchRunResponse]:
        call = self.stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id, from_event=from_event))
        return [event async for event in call]

    async def until_step(self, run_id: str, step: int) -> training_pb2.Run:
        """The run once it has done `step` steps; watched, not polled."""
        call = self.stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id))
        async for event in call:
            if event.run.progress.step >= step or event.run.state in ENDED:
                call.cancel()
                return event.run
        raise AssertionError("the stream ended before the run did")

    async def finished(self, run_id: str) -> training_pb2.Run:
        return (await self.watch(run_id))[-1].run


@asynccontextmanager
async def client_of(settings: ServerSettings) -> AsyncIterator[Client]:
    """A started server with the training role, and a client of it."""
    async with (
        running(settings, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Client(training_pb2_grpc.TrainingServiceStub(channel), server)  # type: ignore[arg-type]


def sample(index: int, answer: str = "") -> dict[str, Any]:
    return {
        "id": f"s{index}",
        "messages": [
            {"role": "user", "content": f"What is number {index}?"},
            {"role": "assistant", "content": answer or f"It is the number {index}, and {index * 7} is another."},
        ],
    }


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def spec(base: Path, data: Path, **hyperparameters: Any) -> training_pb2.RunSpec:
    return training_pb2.RunSpec(
        base_model=common_pb2.ModelRef(uri=str(base)),
        data_uri=str(data),
        hyperparameters=training_pb2.Hyperparameters(**hyperparameters),
    )


async def worker_process() -> psutil.Process:
    """The training worker that this process has started."""
    for _ in range(500):
        for child in psutil.Process().children():
            try:
                if "burnish_services.training.worker" in child.cmdline():
                    return child
            except psutil.Error:
                continue
        await asyncio.sleep(0.01)
    raise AssertionError("no worker was started")


def before_training(events: Sequence[training_pb2.WatchRunResponse]) -> float:
    """The loss on the evaluation data before the first step: the first one that is told."""
    return next(one.run.progress.eval_loss for one in events if one.run.progress.HasField("eval_loss"))
