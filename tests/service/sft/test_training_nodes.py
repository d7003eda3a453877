"""A run trained by two machines, leader and follower, each a real process on a host of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf import json_format

from burnish.api.training.v1 import training_pb2
from burnish_services.runtime.config import ServerSettings
from tests.chaos import network
from tests.service.training_support import Client, client_of, spec
from tests.waiting import until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

HOW: dict[str, Any] = {
    "per_device_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_epochs": 8,
    "learning_rate": 2e-3,
    "checkpoint_steps": 5,
}
LEASE = 10.0
PATIENCE = 240.0  # of a busy machine, seconds

CREATE = """
import sys
import grpc
from google.protobuf import json_format
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
spec = json_format.Parse(sys.argv[2], training_pb2.RunSpec())
stub = training_pb2_grpc.TrainingServiceStub(grpc.insecure_channel(sys.argv[1]))
print(stub.CreateRun(training_pb2.CreateRunRequest(request_id="nodes", spec=spec), wait_for_ready=True).run.run_id)
"""


@dataclass
class Machines:
    """The processes of both hosts, and the state directory that they share."""

    hosts: network.Hosts
    folder: Path
    stack: ExitStack
    address: str = ""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, host: str, *words: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "BURNISH_TRAINING_NODES": "2",
            "BURNISH_TRAINING_PROCESSES": "1",
            "BURNISH_TRAINING_RENDEZVOUS": f"{self.hosts.near_address}:29400",
            "BURNISH_TRAINING_LEASE_SECONDS": str(LEASE),
            "BURNISH_TRAINING_RESTART_DELAY": "0",
            "BURNISH_TRAINING_THREADS": "1",
        }
        output = self.stack.enter_context((self.folder / f"{len(self.started)}.log").open("w"))
        command = ["ip", "netns", "exec", host, sys.executable, "-m", *words, "--state-dir", str(self.folder / "state")]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        self.started.append(process)
        return process

    async def leader(self) -> subprocess.Popen[bytes]:
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        words = ("--roles", "training", "--engine", "transformers", "--ready-file", str(ready))
        process = self.start(self.hosts.near, "burnish_services", *words)
        await until(lambda: ready.exists() or process.poll() is not None, PATIENCE)
        assert process.poll() is None, self.logs()
        self.address = json.loads(ready.read_text())["address"]
        return process

    def follower(self) -> subprocess.Popen[bytes]:
        return self.start(self.hosts.far, "burnish_services.training.follower", "--node", "1")

    def create(self, asked: training_pb2.RunSpec) -> str:
        words = ["ip", "netns", "exec", self.hosts.near, sys.executable, "-c", CREATE, self.address]
        made = subprocess.run([*words, json_format.MessageToJson(asked)], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.rglob("*.log")))


def open_to_all(process: subprocess.Popen[bytes]) -> list[str]:
    """Sockets of a process's host that listen on all addresses."""
    tables = [Path(f"/proc/{process.pid}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    sockets = [line.split() for table in tables for line in table]
    assert sockets
    return [words[1] for words in sockets if words[3] == "0A" and set(words[1].partition(":")[0]) == {"0"}]


@contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    with network.hosts() as hosts, ExitStack() as stack:
        made = Machines(hosts, folder, stack)
        try:
            yield made
        finally:
            for process in made.started:
                process.kill()
                process.wait()


@pytest.mark.skipif(bool(why := network.why_not()), reason=why)
async def test_two_machines_make_what_two_processes_make_whoever_is_lost(
    settings: ServerSettings, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(base, data, **HOW)
    monkeypatch.setenv("BURNISH_TRAINING_PROCESSES", "2")
    async with client_of(settings) as client:
        alone = await client.finished((await client.create("alone", asked)).run_id)
    assert alone.state == training_pb2.STATE_SUCCEEDED, alone.error

    folder = tmp_path / "shared"
    folder.mkdir()
    with machines(folder) as both:
        leader = await both.leader()
        run = folder / "state" / "training" / both.create(asked)

        def now() -> dict[str, Any]:
            lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
            snapshot: dict[str, Any] = json.loads([line for line in lines if line.endswith(b"\n")][-1])["snapshot"]
            return snapshot

        async def until_step(step: int) -> None:
            await until(lambda: now()["progress"]["step"] >= step or now()["failure"], PATIENCE)
            assert now()["state"] == "running", f"{now()}\n{both.logs()}"

        # Nobody has come yet.
        await until(lambda: "node 1 is not there" in now()["waiting_for"], PATIENCE)
        assert now()["state"] == "pending"
        assert now()["attempts"] == 0
        follower = both.follower()
        await until_step(7)
        assert not open_to_all(leader), "torch's own store would listen on every address of the machine"
        assert not open_to_all(follower)
        # It is told to stop: the run is on disk before it ends, and waits for it.
        follower.send_signal(signal.SIGTERM)
        assert follower.wait(PATIENCE) == 128 + signal.SIGTERM
        await until(lambda: "node 1 is not there" in now()["waiting_for"], PATIENCE)
        stopped = now()["progress"]["step"]
        assert [path.name for path in (run / "checkpoints").iterdir()] == [f"checkpoint-{stopped}"]
        assert (now()["crashes"], now()["server_crashes"]) == (0, 0)
        follower = both.follower()
        await until_step(stopped + 8)
        follower.kill()
        before = now()["progress"]["step"]
        follower.wait()
        both.follower()
        await until(lambda: now()["attempts"] == 3, PATIENCE)
        await until_step(before + 1)
        leader.kill()
        leader.wait()
        await both.leader()
        await until(lambda: now()["state"] in ("succeeded", "failed"), PATIENCE)
        assert now()["state"] == "succeeded", f"{now()}\n{both.logs()}"
        assert now()["attempts"] == 4
        assert (run / "worker-node-1.log").stat().st_size
    result = now()["result"]
    made, expected = Path(result["model_uri"]), Path(alone.result.model.uri)
    assert (made / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert result["train_loss"] == alone.result.train_loss


async def test_a_run_that_waits_for_machines_is_cancelled_or_left_to_the_next_server(
    settings: ServerSettings, base: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_NODES", "3")
    monkeypatch.setenv("BURNISH_TRAINING_PROCESSES", "2")
    monkeypatch.setenv("BURNISH_TRAINING_LEASE_SECONDS", "1")
    how = {**HOW, "gradient_accumulation_steps": 6}

    async def waiting(client: Client, run_id: str) -> training_pb2.Run:
        call = client.stub.WatchRun(training_pb2.WatchRunRequest(run_id=run_id))
        async for event in call:
            if event.run.waiting_for:
                call.cancel()
                return event.run
        raise AssertionError("the run ended")

    async with client_of(settings) as client:
        with pytest.raises(grpc.aio.AioRpcError, match="is 2, expected a multiple of 6"):
            await client.create("odd", spec(base, data, **HOW))
        first = await client.create("first", spec(base, data, **how))
        second = await client.create("second", spec(base, data, **how))
        said = await waiting(client, first.run_id)
        assert said.state == training_pb2.STATE_PENDING
        assert said.waiting_for.startswith("2 followers, of which 0 are ready: node 1 is not there")
        assert "node 2 is not there" in said.waiting_for
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=first.run_id))
        ended = await client.finished(first.run_id)
        assert (ended.state, ended.waiting_for) == (training_pb2.STATE_CANCELLED, "")
        assert (await waiting(client, second.run_id)).num_resumes == 0
    async with client_of(settings) as client:
        assert (await client.get(second.run_id)).state == training_pb2.STATE_PENDING
        await client.stub.CancelRun(training_pb2.CancelRunRequest(run_id=second.run_id))
        assert (await client.finished(second.run_id)).state == training_pb2.STATE_CANCELLED
