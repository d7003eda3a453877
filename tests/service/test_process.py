"""The process itself: `python -m burnish_services`, its signals, its ready file, its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.soak.watch import held
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.__main__ import resolve_settings
from burnish_services.engine.fake import write_fake_model
from burnish_services.training.config import TrainingSettings
from tests.service.support import sample
from tests.waiting import until

COMMAND = [sys.executable, "-m", "burnish_services"]


class Process:
    """A server process of a test."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.ready_file = directory / "ready.json"
        self._log = directory / "stderr.txt"
        with self._log.open("w") as log:
            self.popen = subprocess.Popen(
                [*COMMAND, "--engine", "fake", "--state-dir", str(directory), "--ready-file", str(self.ready_file),
                 "--metrics-port", "0", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_ready(self) -> str:
        """The address, once the server answers."""
        for _ in range(600):
            if self.ready_file.exists():
                ready = json.loads(self.ready_file.read_text())
                assert ready["pid"] == self.popen.pid
                return str(ready["address"])
            assert self.popen.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(f"not ready after 30 s: {self.log}")

    async def until_working(self) -> None:
        """Returns once it works a request."""
        metrics = json.loads(self.ready_file.read_text())["metrics"]
        give_up = time.monotonic() + 10
        while (await asyncio.to_thread(held, metrics))["burnish_concurrent_requests"] < 1:
            assert time.monotonic() < give_up, self.log

    def exit_code(self) -> int:
        return self.popen.wait(timeout=20)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Process]]:
    processes: list[Process] = []
    yield processes
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait()


@pytest.fixture
def start(started: list[Process], tmp_path: Path):
    def begin(*arguments: str, model: Path | None = None, roles: str = "scoring") -> Process:
        directory = tmp_path / f"process{len(started)}"
        directory.mkdir()
        model = model or write_fake_model(directory / "model", latency_seconds=0.0)
        started.append(Process(directory, "--roles", roles, "--model", str(model), *arguments))
        return started[-1]

    return begin


def score(channel: grpc.aio.Channel):
    request = scoring_pb2.ScoreSamplesRequest(samples=[sample("a", "Hello", "Hi")])
    return scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(request)


async def test_sigterm_lets_running_calls_finish(start, tmp_path: Path) -> None:
    process = start(model=write_fake_model(tmp_path / "slow", latency_seconds=1.0), roles="scoring,rewriting")
    address = await asyncio.to_thread(process.wait_ready)
    assert json.loads(process.ready_file.read_text())["roles"] == ["scoring", "rewriting"]
    async with grpc.aio.insecure_channel(address) as channel:
        call = asyncio.ensure_future(score(channel))
        await process.until_working()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        process.popen.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await call).scores[0].status.code == 0
    assert await asyncio.to_thread(process.exit_code) == 0
    assert not process.ready_file.exists()
    assert "why=SIGTERM" in process.log
    assert process.log.count("INFO settings roles=") == 1


async def test_a_second_signal_ends_the_process_at_once(start, tmp_path: Path) -> None:
    process = start(model=write_fake_model(tmp_path / "slow", latency_seconds=2.0))
    address = await asyncio.to_thread(process.wait_ready)
    async with grpc.aio.insecure_channel(address) as channel:
        call = asyncio.ensure_future(score(channel))
        await process.until_working()
        process.popen.send_signal(signal.SIGINT)
        await until(lambda: "stopping" in process.log)
        assert process.popen.poll() is None
        began = time.monotonic()
        process.popen.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.exit_code) == 128 + signal.SIGINT
        assert time.monotonic() - began < 3
        with pytest.raises(grpc.aio.AioRpcError):
            await call


def test_the_end_of_standard_input_stops_the_server(start) -> None:
    process = start("--exit-with-parent")
    process.wait_ready()
    process.popen.stdin.close()
    assert process.exit_code() == 0


async def test_both_ways_of_asking_to_stop_are_one_wish(start, tmp_path: Path) -> None:
    """As those who started it do it: they close the pipe and send a signal, which is no second one."""
    process = start("--exit-with-parent", model=write_fake_model(tmp_path / "slow", latency_seconds=1.0))
    address = await asyncio.to_thread(process.wait_ready)
    async with grpc.aio.insecure_channel(address) as channel:
        call = asyncio.ensure_future(score(channel))
        await process.until_working()
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        await until(lambda: "stopping" in process.log)
        process.popen.send_signal(signal.SIGTERM)
        assert (await call).scores[0].status.code == 0
    assert await asyncio.to_thread(process.exit_code) == 0, process.log
    assert process.log.rstrip().endswith("stopped")


def test_standard_input_means_nothing_unless_asked(start) -> None:
    process = start()
    process.wait_ready()
    process.popen.stdin.close()
    time.sleep(0.3)
    assert process.popen.poll() is None


def test_a_signal_while_loading_stops_the_start(start, tmp_path: Path) -> None:
    process = start(model=write_fake_model(tmp_path / "slow", latency_seconds=30.0))
    for _ in range(400):
        if "listening" in process.log:
            break
        time.sleep(0.05)
    process.popen.send_signal(signal.SIGTERM)
    assert process.exit_code() == 0


def test_separate_roles_run_in_separate_processes(start) -> None:
    scoring, rewriting = start(roles="scoring"), start(roles="rewriting")
    assert scoring.wait_ready() != rewriting.wait_ready()
    assert json.loads(rewriting.ready_file.read_text())["roles"] == ["rewriting"]


@pytest.mark.parametrize("content", [None, "{}", '{"fault": "load", "name": "x"}'])
def test_a_model_that_cannot_be_loaded_ends_the_process_with_one_paragraph(start, tmp_path: Path, content) -> None:
    model = tmp_path / "bad"
    if content is not None:
        model.mkdir()
        (model / "fake_model.json").write_text(content)
    process = start(model=model)
    assert process.exit_code() == 2
    last = process.log.strip().splitlines()[-1]
    assert "Traceback" not in process.log
    complaint = [line for line in process.log.splitlines() if line.startswith("burnish services: cannot start: ")]
    assert len(complaint) == 1, last
    assert str(model) in complaint[0]
    assert not process.ready_file.exists()


def test_a_dead_engine_ends_the_process_with_code_1(start, tmp_path: Path) -> None:
    process = start("--engine-restarts", "0", model=write_fake_model(tmp_path / "dead", fault="dead"))
    address = process.wait_ready()

    async def call_until_dead() -> grpc.StatusCode:
        async with grpc.aio.insecure_channel(address) as channel:
            for _ in range(4):
                try:
                    await score(channel)
                except grpc.aio.AioRpcError as error:
                    return error.code()
        raise AssertionError("the engine did not die")

    assert asyncio.run(call_until_dead()) is grpc.StatusCode.UNAVAILABLE
    assert process.exit_code() == 1
    assert "burnish services: failed: " in process.log


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


def test_other_machines_are_kept_out_unless_asked(tmp_path: Path) -> None:
    refused = run("--roles", "scoring", "--model", str(tmp_path), "--host", "0.0.0.0")
    assert refused.returncode == 2
    assert "can be reached from other machines, without encryption" in refused.stderr
    assert "--insecure" in refused.stderr
    allowed = run("--roles", "scoring", "--engine", "fake", "--model", str(tmp_path), "--host", "0.0.0.0", "--insecure")
    assert "can be reached from other machines, without encryption" not in allowed.stderr
    assert f"{tmp_path} holds no" in allowed.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--roles", "scoring"], "no model named"),
        (["--port", "70000", "--model", "x"], "--port"),
        (["--engine", "steam"], "invalid choice"),
        (["--colour", "red"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_ends_with_code_2(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        resolve_settings(arguments)
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_wrong_usage_is_told_without_a_traceback() -> None:
    ended = run("--roles", "scoring,cooking", "--model", "x")
    assert ended.returncode == 2
    assert "unknown role cooking" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("BURNISH_SCORING_MAX_ITEMS", "0"), ("BURNISH_EMBEDDING_CACHE_MIB", "much"), ("BURNISH_TRAINING_PROCESSES", "-1")],
)
def test_a_setting_of_a_service_that_is_no_good_is_named(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    ended = run("--engine", "fake", "--model", str(write_fake_model(tmp_path / "model")), "--state-dir", str(tmp_path))
    assert ended.returncode == 2
    assert f"burnish services: cannot start: {variable} is {value!r}: input should be" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BURNISH_TRAINING_KEEP_FAILD_SECONDS", "BURNISH_TRAINING_KEEP_FAILED_SECONDS"),
        ("BURNISH_SCORING_MAX_ITEM", "BURNISH_SCORING_MAX_ITEMS"),
        ("BURNISH_SERVER_PROT", "BURNISH_SERVER_PORT"),
    ],
)
def test_a_variable_that_is_misspelt_is_no_good_either(
    variable: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    ended = run("--engine", "fake", "--model", str(write_fake_model(tmp_path / "model")), "--state-dir", str(tmp_path))
    assert ended.returncode == 2
    assert f"{variable} is no setting; did you mean {meant}?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_variables_of_others_pass_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of clients, and what Kubernetes tells of services."""
    before = TrainingSettings()
    for name in ("ENDPOINT", "SERVICE_HOST", "SERVICE_PORT_GRPC", "PORT_50051_TCP_ADDR"):
        monkeypatch.setenv(f"BURNISH_TRAINING_{name}", "x")
    assert TrainingSettings() == before


def test_help_names_every_setting() -> None:
    from burnish_services.__main__ import build_parser
    from burnish_services.runtime.config import ServerSettings

    shown = build_parser().format_help()
    for name in ServerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown
