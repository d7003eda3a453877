"""One worker process, seen from the server: started, listened to, stopped. Knows no states of runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from burnish_services.training import messages
from burnish_services.training.config import TrainingSettings
from burnish_services.training.messages import Message
from burnish_services.training.runs import RunDirectory

log = logging.getLogger(__name__)

_LINE_LIMIT = 1 << 26  # bytes; a result names every sample left out
_TAIL_BYTES = 2000
_LAST_WORDS_SECONDS = 10.0  # that a worker has to end once it said its last message
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1")


class WorkerProcess:
    """A running worker. It ends when the server does, however the server ends."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path, log_start: int) -> None:
        self._process = process
        self._log_file = log_file
        self._log_start = log_start

    @classmethod
    async def start(
        cls, directory: RunDirectory, settings: TrainingSettings, processes: int = 1, options: Sequence[str] = ()
    ) -> WorkerProcess:
        """Starts a worker on a run, of one process or of several under torchrun; its log is appended to the run's.
        Raises OSError."""
        worker = ("-m", "burnish_services.training.worker", str(directory.path))
        with directory.log.open("ab") as log_file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *(_TORCHRUN if processes > 1 else ()), *_ranks(processes), *worker),
                *("--parent", str(os.getpid() if processes == 1 else 0), "--threads", str(settings.worker_threads)),
                *("--checkpoint-seconds", str(settings.checkpoint_seconds)),
                *("--fake-step-seconds", str(settings.fake_step_seconds), *options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                limit=_LINE_LIMIT,
                env=_environment(settings.worker_threads),
                # Ctrl-C in the server's terminal is the server's to answer.
                start_new_session=True,
            )
            return cls(process, directory.log, log_file.tell())

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

    async def wait(self) -> int:
        """Waits for its end, not for long, and returns the exit code; negative: the signal that ended it."""
        try:
            code = await asyncio.wait_for(self._process.wait(), _LAST_WORDS_SECONDS)
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


def _ranks(processes: int) -> tuple[str, ...]:
    return ("--nproc-per-node", str(processes)) if processes > 1 else ()


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


def _environment(threads: int) -> dict[str, str]:
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
    fixed = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    # A server that shares its process with vLLM may have bound its threads to cores.
    bound = {"KMP_AFFINITY", "GOMP_CPU_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"}
    # What a cluster tells its jobs of each other is the server's; a worker's place is told by torchrun.
    place = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {key: value for key, value in os.environ.items() if key not in bound | place}
    return tuned | kept | fixed
