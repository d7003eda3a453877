"""Starting and ending services on this machine, with a stand-in for `burnish_services` that behaves as told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import pytest

import burnish.cli.services as cli_services
import burnish.local as local
from burnish import Endpoints, NotInstalled, StartFailed, UsageError
from burnish._settings import load_settings
from burnish.local import EngineOptions, LocalServices

# What the stand-in does is told by BURNISH_STANDIN: serve, exit, hang (never ready), stubborn (ignores SIGTERM).
STAND_IN = """
import json, os, pathlib, signal, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

mode = os.environ["BURNISH_STANDIN"]
flags = sys.argv[1:]
value = lambda name: flags[flags.index(name) + 1]
print("arguments:", " ".join(flags), flush=True)
pathlib.Path(tempfile.gettempdir(), "left-by-the-stand-in").touch()
if mode == "exit":
    print("no model at nowhere", flush=True)
    sys.exit(2)
stop = threading.Event()
end = (lambda *_: None) if mode == "stubborn" else (lambda *_: stop.set())
signal.signal(signal.SIGTERM, end)
threading.Thread(target=lambda: end(sys.stdin.buffer.read()), daemon=True).start()


class Health(health_pb2_grpc.HealthServicer):
    def Check(self, request, context):
        role = request.service.split(".")[2]
        assert request.service == f"burnish.api.{role}.v1.{role.capitalize()}Service"
        serving = role in value("--roles").split(",")
        return health_pb2.HealthCheckResponse(status=1 if serving else 2)


server = grpc.server(ThreadPoolExecutor(4))
health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
if mode != "hang":
    ready = pathlib.Path(value("--ready-file"))
    partial = ready.with_suffix(".part")
    partial.write_text(json.dumps({"pid": os.getpid(), "address": f"127.0.0.1:{port}"}))
    partial.rename(ready)
print("loading", flush=True)
stop.wait()
"""


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "path" / "burnish_services"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'path'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("BURNISH_STANDIN", "serve")


def alive(pid: int) -> bool:
    try:
        # A zombie of ours, or of a parent that is gone, counts as ended.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_ended(pid: int, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while alive(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.02)


def test_one_process_for_all_roles(tmp_path: Path) -> None:
    with LocalServices(state_dir=tmp_path / "state", engine="fake", model="m") as services:
        (pid,) = services.pids
        assert services.endpoints.missing == ()
        assert len({services.endpoints.scoring, services.endpoints.training}) == 1
        assert services.failure() is None
        arguments = (tmp_path / "state" / "services.log").read_text().splitlines()[0]
        assert "--exit-with-parent" in arguments
        assert "--roles scoring,embedding,rewriting,training" in arguments
        assert "--engine fake --model m --host 127.0.0.1 --port 0" in arguments
    assert not alive(pid)
    with pytest.raises(UsageError, match="not running"):
        _ = services.endpoints


def test_nothing_is_left_in_the_machine_s_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "temporary"
    shared.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(shared))
    with LocalServices(["scoring"], state_dir=tmp_path / "state", engine="fake", model="m"):
        assert [path.parent.parent for path in shared.rglob("left-by-the-stand-in")] == [shared]
    assert list(shared.iterdir()) == []


def test_one_process_per_role(tmp_path: Path) -> None:
    roles = ("training", "scoring")
    with LocalServices(roles, state_dir=tmp_path, engine="fake", model="m", separate=True) as services:
        assert services.roles == ("scoring", "training")
        assert len(set(services.pids)) == 2
        endpoints = services.endpoints
        assert endpoints.scoring != endpoints.training
        assert endpoints.missing == ("embedding", "rewriting")
    assert {path.name for path in tmp_path.glob("*.log")} == {"scoring.log", "training.log"}


async def test_an_asynchronous_block(tmp_path: Path) -> None:
    async with LocalServices(["scoring"], state_dir=tmp_path, engine="fake", model="m") as services:
        (pid,) = services.pids
        assert alive(pid)
    assert not alive(pid)


async def test_an_asynchronous_start_that_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_STANDIN", "hang")
    services = LocalServices(["scoring"], state_dir=tmp_path, engine="fake")
    starting = asyncio.ensure_future(services.__aenter__())
    await asyncio.sleep(0.5)
    (pid,) = services.pids
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not alive(pid)


async def test_a_cancellation_that_comes_as_the_services_are_ready_leaves_none_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = LocalServices(["scoring"], state_dir=tmp_path, engine="fake", model="m")
    started, start = threading.Event(), services.start

    def begun_before_it_is_told() -> Endpoints:
        endpoints = start()
        started.set()
        assert services._abandoned.wait(10)
        return endpoints

    with monkeypatch.context() as patched:
        patched.setattr(services, "start", begun_before_it_is_told)
        starting = asyncio.ensure_future(services.__aenter__())
        assert await asyncio.to_thread(started.wait, 30)
        (pid,) = services.pids
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    assert not alive(pid)
    with services:
        assert services.pids, "they may be started again"


def test_starting_twice_is_refused(tmp_path: Path) -> None:
    with (
        LocalServices(["scoring"], state_dir=tmp_path, engine="fake") as services,
        pytest.raises(UsageError, match="already"),
    ):
        services.start()


def test_a_start_that_fails_shows_the_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scoring.log").write_text("words of an earlier start\n")
    monkeypatch.setenv("BURNISH_STANDIN", "exit")
    services = LocalServices(["scoring"], state_dir=tmp_path, engine="fake")
    with pytest.raises(StartFailed, match=r"the scoring service \(process \d+\) ended with exit code 2") as caught:
        services.start()
    assert "no model at nowhere" in str(caught.value)
    assert str(tmp_path / "scoring.log") in str(caught.value)
    assert "earlier" not in str(caught.value)
    assert services.pids == ()


def test_a_start_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_STANDIN", "hang")
    notes: list[str] = []
    services = LocalServices(
        ["scoring"], state_dir=tmp_path, engine="fake", start_timeout=2.5, on_progress=notes.append
    )
    with pytest.raises(StartFailed, match=r"was not ready within 2.5 s.*\n(.*\n)*loading"):
        services.start()
    assert len(notes) >= 2
    assert notes[-1].startswith("starting scoring, ")
    assert notes[-1].endswith("loading")


def test_one_failed_start_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[int] = []
    original = local.ServiceProcess.wait_ready

    def noting(process: local.ServiceProcess, *given: object) -> None:
        pids.append(process.pid)
        if len(pids) == 2:
            os.kill(process.pid, signal.SIGKILL)
            process._process.wait()
            process.address = ""
        original(process, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(local.ServiceProcess, "wait_ready", noting)
    roles = ("scoring", "training")
    with pytest.raises(StartFailed, match="was killed by signal 9"):
        LocalServices(roles, state_dir=tmp_path, engine="fake", separate=True).start()
    assert not any(alive(pid) for pid in pids)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_STANDIN", "stubborn")
    monkeypatch.setattr(local, "_EXTRA_SECONDS", 0.1)
    services = LocalServices(["scoring"], state_dir=tmp_path, engine="fake", stop_timeout=0.2)
    services.start()
    (pid,) = services.pids
    services.stop()
    assert not alive(pid)


def test_a_process_that_dies_later_is_told_of(tmp_path: Path) -> None:
    with LocalServices(["scoring"], state_dir=tmp_path, engine="fake") as services:
        (pid,) = services.pids
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 5
        while services.failure() is None and time.monotonic() < end:
            time.sleep(0.02)
        assert "was killed by signal 9" in (services.failure() or "")


def test_services_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom burnish.local import LocalServices\n"
        f"services = LocalServices(['scoring', 'training'], state_dir={str(tmp_path)!r}, engine='fake', "
        "separate=True)\n"
        "services.start()\nprint(*services.pids, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    for pid in pids:
        wait_until_ended(pid)


def test_services_end_with_a_parent_that_forgets_them(tmp_path: Path) -> None:
    script = (
        "from burnish.local import LocalServices\n"
        f"services = LocalServices(['scoring'], state_dir={str(tmp_path)!r}, engine='fake')\n"
        "services.start()\nprint(*services.pids, flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    wait_until_ended(int(done.stdout))


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown roles judging; expected some of scoring"):
        LocalServices(["judging"], state_dir=tmp_path)
    with pytest.raises(UsageError, match="unknown engine 'llama'"):
        LocalServices(state_dir=tmp_path, engine="llama")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("installed", "engine"),
    [({"vllm", "torch", "transformers"}, "vllm"), ({"torch", "transformers"}, "transformers")],
)
def test_the_best_engine_installed_is_taken(installed: set[str], engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: object() if name in installed else None)
    assert local.detect_engine() == engine


def test_no_engine_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"burnish_services", "torch"}
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: object() if name in known else None)
    with pytest.raises(NotInstalled, match=r"pip install '\.\[cpu\]'"):
        LocalServices(state_dir=tmp_path).start()
    assert list(tmp_path.glob("*.log")) == []


def test_engine_options_become_flags() -> None:
    assert EngineOptions().arguments() == ["--dtype", "auto", "--no-compile"]
    options = EngineOptions(max_model_len=512, cpu_cores="0-1", chat_template="plain", compile=True)
    expected = "--dtype auto --compile --max-model-len 512 --cpu-cores 0-1 --chat-template plain"
    assert " ".join(options.arguments()) == expected


@pytest.mark.parametrize(
    ("roles", "separate", "share"),
    [
        (local.SERVICES, True, "0.167"),
        (("scoring", "rewriting"), True, "0.45"),
        (("scoring", "training"), True, "0.5"),
        (local.SERVICES, False, None),
    ],
)
def test_processes_share_a_gpu(
    roles: tuple[str, ...], separate: bool, share: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(local, "ServiceProcess", lambda command, *_: started.append(command) or mock.MagicMock())
    with LocalServices(roles, state_dir=tmp_path, engine="fake", separate=separate):
        pass
    flags = [command[command.index("--gpu-memory-utilization") + 1] for command in started if share]
    assert flags == [share] * (len(roles) if separate else 0)
    assert share or "--gpu-memory-utilization" not in started[0]


def test_what_is_divided_is_what_was_asked_for() -> None:
    asked = EngineOptions(gpu_memory_utilization=0.8)
    assert local.divided(asked, [["scoring", "training"], ["rewriting"]]).gpu_memory_utilization == 0.4
    assert local.divided(asked, [["scoring", "rewriting"]]) == asked


def test_a_command_s_services_with_models_of_their_own_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[EngineOptions] = []

    def stand_in(*_: object, options: EngineOptions, **__: object) -> mock.MagicMock:
        started.append(options)
        return mock.MagicMock()

    monkeypatch.setattr(cli_services, "LocalServices", stand_in)
    monkeypatch.setattr(cli_services, "Client", mock.MagicMock())
    monkeypatch.setattr(cli_services, "Endpoints", mock.MagicMock())
    chosen = cli_services.ServiceChoice(load_settings({"engine": "fake"}), Endpoints(), separate=False, state_dir=None)
    with chosen.client(local.SERVICES, "base", Path(), models={"rewriting": "refiner"}):
        pass
    assert [options.gpu_memory_utilization for options in started] == [0.25, 0.25]


def test_endpoints_of_nothing_started(tmp_path: Path) -> None:
    services = LocalServices(state_dir=tmp_path, engine="fake")
    services.stop()
    with pytest.raises(UsageError, match="call start"):
        assert services.endpoints == Endpoints()
