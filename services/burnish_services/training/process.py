"""One worker process, seen from the server: started, listened to, stopped. Knows no states of runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from burnish_services.training import messages
from burnish_services.training.interfaces import interface_towards
from burnish_services.training.messages import Message
from burnish_services.training.nodes import WorkerOptions
from burnish_services.training.runs import RunDirectory

log = logging.getLogger(__name__)

_LINE_LIMIT = 1 << 26  # bytes; a result names every sample left out
_TAIL_BYTES = 2000
_LAST_WORDS_SECONDS = 10.0  # that a worker has to end once it said its last message
# … where torchrun on this machine waits to hear that it has ended on the others, which never comes from one that
# was stopped.
_LAST_WORDS_SECONDS_OF_SEVERAL = 3.0


@dataclass(frozen=True, slots=True)
class Place:
    """What one machine has of a run's processes, and where it meets the others, if there are any."""

    processes: int = 1  # on this machine
    nodes: int = 1
    node: int = 0  # of which 0 has the first processes
    endpoint: str = "127.0.0.1:0"  # HOST:PORT of node 0
    attempt: str = "alone"  # an id that all of them share
    rendezvous_seconds: float = 300.0  # that they wait for each other

    @property
    def is_single(self) -> bool:
        """True where there is one process in all."""
        return self.processes * self.nodes == 1


class WorkerProcess:
    """A running worker, or one machine's part of it. It ends when whoever started it does, however that ends."""

    def __init__(
        self, process: asyncio.subprocess.Process, log_file: Path, log_start: int, last_words_seconds: float
    ) -> None:
        self._process = process
        self._log_file = log_file
        self._log_start = log_start
        self._last_words_seconds = last_words_seconds

    @classmethod
    async def start(cls, directory: RunDirectory, options: WorkerOptions, place: Place = Place()) -> WorkerProcess:
        """Starts a worker on a run, of one process or of several under torchrun; its log is appended to the machine's
        for this run. Raises OSError."""
        log_path = directory.log_of(place.node)
        with log_path.open("ab") as log_file:
            log_start = log_file.tell()  # before the worker, which moves it, writes anything
            process = await asyncio.create_subprocess_exec(
                *_command(directory, options, place),
                stdin=asyncio.subprocess.PIPE,
                # On other machines nobody listens.
                stdout=log_file if place.node else asyncio.subprocess.PIPE,
                stderr=log_file,
                limit=_LINE_LIMIT,
                env=await asyncio.to_thread(_environment, options.threads, place),
                # Ctrl-C in the server's terminal is the server's to answer.
                start_new_session=True,
            )
            patience = _LAST_WORDS_SECONDS if place.nodes == 1 else _LAST_WORDS_SECONDS_OF_SEVERAL
            return cls(process, log_path, log_start, patience)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def messages(self) -> AsyncIterator[Message]:
        """What the worker says, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                message = messages.decode(line)
            except ValidationError:
                log.error("worker %d said something that is no message, of %d bytes", self.pid, len(line))
                continue
            yield message
            if isinstance(message, messages.LAST):
                return

    def stop(self) -> None:
        """Asks the worker to write a checkpoint after its step and to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the worker at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not by the process's own send_signal: that polls first, and so may take a dead worker's exit code away from
        # asyncio, which then reports 255.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self) -> None:
        """Waits for its end, however long."""
        await self._process.wait()

    @property
    def ended_well(self) -> bool:
        """True once it has ended with exit code 0."""
        return self._process.returncode == 0

    async def wait(self) -> int:
        """Waits for its end, not for long, and returns the exit code; negative: the signal that ended it."""
        try:
            code = await asyncio.wait_for(self._process.wait(), self._last_words_seconds)
        except TimeoutError:
            # Of several processes one has failed, and the others wait for it where they were to meet.
            self.kill()
            code = await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def last_words(self) -> str:
        """The end of what this worker wrote to its log; empty where it wrote nothing."""
        try:
            with self._log_file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - _TAIL_BYTES))
                return file.read().decode(errors="replace").strip()
        except OSError as error:
            return f"({self._log_file} cannot be read: {error})"


def _command(directory: RunDirectory, options: WorkerOptions, place: Place) -> list[str]:
    server = os.getpid()
    parent = server if place.is_single else 0
    worker = ["-m", "burnish_services.training.worker", str(directory.path)]
    worker += ["--parent", str(parent), "--threads", str(options.threads)]
    worker += ["--checkpoint-seconds", str(options.checkpoint_seconds)]
    worker += ["--fake-step-seconds", str(options.fake_step_seconds), *options.more]
    return [sys.executable, *([] if place.is_single else _torchrun(server, place)), *worker]


def _torchrun(parent: int, place: Place) -> list[str]:
    return [
        *("-m", "burnish_services.training.launch", str(parent)),
        *("--nnodes", str(place.nodes), "--nproc-per-node", str(place.processes)),
        *("--rdzv-backend", "burnish", "--rdzv-endpoint", place.endpoint, "--rdzv-id", place.attempt),
        *("--rdzv-conf", f"rank={place.node},timeout={max(1, round(place.rendezvous_seconds))}"),
    ]


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (the kernel sends it where memory runs out)" if code == -signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _environment(threads: int, place: Place = Place()) -> dict[str, str]:
    """The server's environment, with what makes a worker fast where the operator has not said otherwise."""
    tuned = {
        # Threads that wait for each other sleep instead of spinning. Alone on a machine that costs nothing to speak
        # of; where anything else runs, a spinning thread keeps the very one it waits for from its core: 4 to 10 times
        # slower, measured.
        "OMP_WAIT_POLICY": "PASSIVE",
        # glibc gives freed memory back to the kernel and fetches it again, page by page, in the next layer. Blocks up
        # to 32 MiB are kept instead; keeping the few larger ones too would fragment the heap to twice its size.
        "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        # Without it cuBLAS may give other bits each time.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        # Batches differ in size, and would leave a GPU's memory in pieces of which none fits the next.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    if not place.is_single and (interface := interface_towards(place.endpoint)):
        # Else gloo listens where the host's name leads to, which may be an address that no other machine reaches, or
        # one that all do.
        tuned["GLOO_SOCKET_IFNAME"] = interface
        if place.nodes > 1:
            tuned["NCCL_SOCKET_IFNAME"] = interface
    # How long a worker that is told to stop may take is the server's to say; torchrun would kill it after 30 s.
    tuned["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "86400"
    # One process trains on one GPU: of several that it sees, transformers would take all, by DataParallel.
    seen = (
        {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]} if place.is_single else {}
    )
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    # A server that shares its process with vLLM may have bound its threads to cores.
    bound = {"KMP_AFFINITY", "GOMP_CPU_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"}
    # What a cluster tells its jobs of each other is the server's; a worker's place is told by torchrun.
    told = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {key: value for key, value in os.environ.items() if key not in bound | told}
    return tuned | kept | seen | fixed
