"""Starts services on this machine, as processes that end with this one. Never imports an engine.

`LocalServices` runs `python -m burnish_services` once for all roles, or once per role. The children hold the reading
end of a pipe and stop when it closes, so that they end with their parent even if that is killed. They have a session
of their own: Ctrl-C reaches the parent alone, which then stops them in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from burnish._endpoints import SERVICES, Endpoints
from burnish._errors import NotInstalled, StartFailed, UsageError
from burnish._service_process import ServiceProcess

Engine = Literal["vllm", "transformers", "fake"]
ENGINES: tuple[Engine, ...] = ("vllm", "transformers", "fake")

# The servers' own grace is as long as `stop_timeout`; this much more lets them close what they hold.
_EXTRA_SECONDS = 10.0


def detect_engine() -> Engine:
    """The best engine that is installed: vllm, else transformers. Looks for packages without importing them.

    Raises NotInstalled, which says what to install.
    """
    if _installed("vllm"):
        return "vllm"
    if _installed("torch") and _installed("transformers"):
        return "transformers"
    raise NotInstalled(
        "no engine is installed to run services on this machine. Install one with `pip install '.[cpu]'` in a checkout "
        "of Burnish ('.[gpu]' where there is a CUDA device), or pass the endpoints of services that run elsewhere"
    )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the services load their model; None and "auto" leave it to the services. See `burnish_services --help`."""

    dtype: str = "auto"
    max_model_len: int | None = None
    memory_mib: int | None = None
    gpu_memory_utilization: float | None = None  # of all services together, however many processes these are
    tensor_parallel_size: int | None = None
    batch_tokens: int | None = None
    cpu_cores: str | None = None
    chat_template: str | None = None
    compile: bool = False

    def arguments(self) -> list[str]:
        """The command line flags of `python -m burnish_services`."""
        flags = ["--dtype", self.dtype, "--compile" if self.compile else "--no-compile"]
        for name in (
            "max_model_len",
            "memory_mib",
            "gpu_memory_utilization",
            "tensor_parallel_size",
            "batch_tokens",
            "cpu_cores",
            "chat_template",
        ):
            value = getattr(self, name)
            if value is not None:
                flags += [f"--{name.replace('_', '-')}", str(value)]
        return flags


def divided(options: EngineOptions, processes: Sequence[Sequence[str]]) -> EngineOptions:
    """`options` for each of several processes, given by their roles, that share a GPU: what all of them together take
    of its memory for engines is divided among those that have any. A single process divides by itself."""
    if len(processes) <= 1:
        return options
    training = any("training" in roles for roles in processes)
    together = options.gpu_memory_utilization or (0.5 if training else 0.9)
    with_engines = sum(set(roles) != {"training"} for roles in processes)
    return replace(options, gpu_memory_utilization=round(together / with_engines, 3))


class LocalServices:
    """Services on this machine, from `start` to `stop`, or for the time of a `with` (or `async with`) block.

    `roles`: which services. `engine`: None takes `detect_engine()`. `model`: the directory they begin with (training
    alone needs none). `state_dir`: where logs, vectors and runs are kept; it stays. `separate`: one process per role.
    `start_timeout`, `stop_timeout`: seconds for all processes together to be ready, and to finish their work.
    `on_progress` gets a line of text about once a second while they start.
    """

    def __init__(
        self,
        roles: Sequence[str] = SERVICES,
        *,
        state_dir: Path | str,
        model: Path | str | None = None,
        engine: Engine | None = None,
        separate: bool = False,
        options: EngineOptions | None = None,
        start_timeout: float = 600.0,
        stop_timeout: float = 30.0,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        unknown = sorted(set(roles) - set(SERVICES))
        if unknown or not roles:
            expected = ", ".join(SERVICES)
            raise UsageError(f"unknown roles {', '.join(unknown) or '(none given)'}; expected some of {expected}")
        if engine is not None and engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}; expected one of {', '.join(ENGINES)}")
        self.roles = tuple(role for role in SERVICES if role in roles)
        self.state_dir = Path(state_dir)
        self._model = model
        self._engine = engine
        self._groups = tuple((role,) for role in self.roles) if separate else (self.roles,)
        self._options = options or EngineOptions()
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._on_progress = on_progress
        self._processes: list[ServiceProcess] = []
        self._abandoned = threading.Event()

    @property
    def engine(self) -> Engine:
        """The engine in use. Raises NotInstalled where none was chosen and none is installed."""
        if self._engine is None:
            self._engine = detect_engine()
        return self._engine

    @property
    def endpoints(self) -> Endpoints:
        """Where the services are. Raises UsageError before `start`."""
        if not self._processes:
            raise UsageError("the local services are not running; call start() first")
        return Endpoints(**{role: process.address for process in self._processes for role in process.roles})

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the services that were started."""
        return tuple(process.pid for process in self._processes)

    def start(self) -> Endpoints:
        """Starts all processes at once and returns when all serve. Raises StartFailed (after stopping the others),
        NotInstalled, or UsageError where they run already."""
        if self._processes:
            raise UsageError("the local services are running already")
        command = self._command()
        self.state_dir.mkdir(parents=True, exist_ok=True)
        try:
            for roles in self._groups:
                self._processes.append(ServiceProcess(command, roles, self.state_dir))
            for process in self._processes:
                process.wait_ready(self._start_timeout, self._abandoned, self._on_progress)
        except BaseException:
            self.stop()
            raise
        return self.endpoints

    def _command(self) -> list[str]:
        if not _installed("burnish_services"):
            raise NotInstalled("the package burnish_services is not installed; install burnish itself anew")
        command = [sys.executable, "-m", "burnish_services", "--engine", self.engine]
        if self._model is not None:
            command += ["--model", str(self._model)]
        command += ["--host", "127.0.0.1", "--port", "0", "--state-dir", str(self.state_dir)]
        command += ["--grace", f"{self._stop_timeout:g}", "--exit-with-parent"]
        return command + divided(self._options, self._groups).arguments()

    def stop(self) -> None:
        """Lets the services finish the work in hand and ends them; kills what is left after `stop_timeout`. Safe to
        call twice."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.ask_to_stop()
        deadline = time.monotonic() + self._stop_timeout + _EXTRA_SECONDS
        for process in processes:
            process.end(deadline)

    def failure(self) -> str | None:
        """What became of a process that has ended by itself since `start`, with its last words; None if all run."""
        dead = [process for process in self._processes if process.exit_code is not None]
        return "\n".join(process.obituary() for process in dead) or None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._abandoned.set()
            with contextlib.suppress(StartFailed):
                await starting
            await asyncio.to_thread(self.stop)  # they may have been ready before they were told
            self._abandoned.clear()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
