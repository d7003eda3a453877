"""One child process `python -m burnish_services`: its pipe, its log, its address, its end. Chooses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from burnish._endpoints import SERVICES
from burnish._errors import StartFailed

_LOG_LINES = 20
_ASKING = ("BURNISH_SERVER_TLS_", "BURNISH_SERVER_TOKENS", "BURNISH_SERVER_GUARD_HEALTH")
_POLL_SECONDS = 0.1
_TELL_SECONDS = 1.0


class ServiceProcess:
    """One `python -m burnish_services` child: its pipe, log and address."""

    def __init__(self, command: Sequence[str], roles: tuple[str, ...], state_dir: Path) -> None:
        self.roles = roles
        self.address = ""
        self.log_path = state_dir / f"{'-'.join(roles) if len(roles) < len(SERVICES) else 'services'}.log"
        self._temporary = tempfile.TemporaryDirectory(prefix="burnish-", ignore_cleanup_errors=True)
        self._ready_file = Path(self._temporary.name) / "ready.json"
        self._began = time.monotonic()
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [*command, "--roles", ",".join(roles), "--ready-file", str(self._ready_file)],
                stdin=subprocess.PIPE,  # never written to; its closing is the sign to stop
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(self._temporary.name),
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How the process ended; None while it runs. Negative: the signal that killed it."""
        return self._process.poll()

    def wait_ready(self, timeout: float, abandoned: threading.Event, on_progress: Callable[[str], None] | None) -> None:
        """Returns once every role answers SERVING. Raises StartFailed, with the log's last lines, where the process
        ends or takes more than `timeout` seconds since its begin, and where `abandoned` is set."""
        told = 0.0
        while not (self._read_ready_file() and self._is_serving()):
            if self.exit_code is not None:
                raise StartFailed(self.obituary())
            now = time.monotonic()
            if abandoned.is_set():
                raise StartFailed(f"{self._who()} was stopped while it started")
            if now > self._began + timeout:
                raise StartFailed(self._with_last_words(f"{self._who()} was not ready within {timeout:g} s"))
            if on_progress is not None and now - told >= _TELL_SECONDS:
                told = now
                last = self._last_words(1)
                note = f"starting {', '.join(self.roles)}, {now - self._began:.0f} s"
                on_progress(f"{note}: {last}" if last else note)
            time.sleep(_POLL_SECONDS)

    def _read_ready_file(self) -> bool:
        if not self.address and self._ready_file.exists():
            # Written whole or not at all, so that what is there can be read.
            self.address = str(json.loads(self._ready_file.read_text())["address"])
        return bool(self.address)

    def _is_serving(self) -> bool:
        with grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            names = [f"burnish.api.{role}.v1.{role.capitalize()}Service" for role in self.roles]
            try:
                replies = [health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5) for name in names]
            except grpc.RpcError:
                return False
        return all(reply.status == health_pb2.HealthCheckResponse.SERVING for reply in replies)

    def ask_to_stop(self) -> None:
        """Sends SIGTERM and closes the pipe."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self.exit_code is None:
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Waits for the process until `deadline`, then kills it; what it started and left behind goes with it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # The child leads a process group of its own, made in __init__: an engine's processes are in no other.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._temporary.cleanup()

    def obituary(self) -> str:
        """How the process ended, and its last words."""
        code = self.exit_code
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        return self._with_last_words(f"{self._who()} {how}")

    def _with_last_words(self, what: str) -> str:
        words = self._last_words()
        return f"{what}. Its last words, from {self.log_path}:\n{words}" if words else f"{what}. It left no log"

    def _who(self) -> str:
        return f"the {', '.join(self.roles)} service{'s' if len(self.roles) > 1 else ''} (process {self.pid})"

    def _last_words(self, count: int = _LOG_LINES) -> str:
        with self.log_path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - 16 * 1024))
            lines = log.read().decode(errors="replace").rstrip().splitlines()
        return "\n".join(lines[-count:])


def _environment(temporary: str) -> dict[str, str]:
    """This process's, without what has a server ask callers who they are: services started here are this one's own, and
    listen on this machine alone. What vLLM and torchrun would leave in the machine's temporary directory goes to
    `temporary`; what torch compiles, which the next start takes from there, does not."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_ASKING)}
    compiled = str(Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}")
    return {"TORCHINDUCTOR_CACHE_DIR": compiled} | kept | {"TMPDIR": temporary}
