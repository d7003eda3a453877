"""One training run of one contender, watched from outside: a run of the service, or a peer's process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.peers import peak_mib
from bench.training.data import Workload
from bench.training.recipe import WARMUP, Recipe
from burnish import BurnishError, Client, Hyperparameters, ModelRef, RunSpec
from burnish_services.training.process import _environment

_WORKER = "burnish_services.training.worker"
_TAIL = 2000  # characters of a log that a failure shows


@dataclass(frozen=True)
class Task:
    """One model to be trained once."""

    base: Path
    work: Workload
    recipe: Recipe
    seed: int
    folder: Path  # an empty one
    device_mib: Callable[[], float] = float  # memory of the GPU that this run has taken by now

    @property
    def model(self) -> Path:
        """Where the resulting weights go."""
        return self.folder / "model"


@dataclass(frozen=True)
class Trained:
    """What a run came to; the tokens and seconds are those of the steps after the first two."""

    tokens: float
    seconds: float
    peak_mib: float  # resident memory of the process during these steps
    device_mib: float  # of the GPU's memory, taken by the end of these steps
    train_loss: float  # mean over all steps, in nats
    remarks: dict[str, Any]  # what the contender says besides


@dataclass
class Watch:
    """Notes how a process was after the warm-up and after its last step."""

    task: Task
    steps: int = 0
    warm_at: float = 0.0  # seconds on the clock of whoever notes
    last_at: float = 0.0
    warm_tokens: float = 0.0  # trained on by then
    peak_mib: float = 0.0
    device_mib: float = 0.0

    def note(self, progress: Mapping[str, Any], at: float, pids: Sequence[int]) -> None:
        """What was reported at a time, by processes that are still there."""
        step = progress["step"]
        if step == self.steps:
            return
        self.steps = step
        if step == WARMUP:
            self.warm_at, self.warm_tokens = at, tokens_by(progress)
            for pid in pids:
                peak_mib(pid)  # forgets what loading took
        elif step == self.task.recipe.steps:
            self.last_at, self.peak_mib = at, sum(peak_mib(pid) for pid in pids)
            self.device_mib = self.task.device_mib()

    def trained(self, train_loss: float, num_tokens: int, remarks: dict[str, Any]) -> Trained:
        """The whole. Raises SystemExit where the run was another than it should have been."""
        wanted = (self.task.recipe.steps, self.task.work.num_tokens)
        if (self.steps, num_tokens) != wanted:
            raise SystemExit(
                f"it took {self.steps} steps over {num_tokens} tokens instead of {wanted[0]} over {wanted[1]}"
            )
        tokens, seconds = num_tokens - self.warm_tokens, self.last_at - self.warm_at
        return Trained(tokens, seconds, self.peak_mib, self.device_mib, train_loss, remarks)


def tokens_by(progress: Mapping[str, Any]) -> float:
    """Tokens trained on up to the step that is reported, one of the first eight. A peer counts them; the service says
    their rate over the last eight steps, and the seconds left by the mean time of these."""
    if "tokens" in progress:
        return float(progress["tokens"])
    seconds = progress["seconds_left"] / (progress["total_steps"] - progress["step"]) * progress["step"]
    return float(round(progress["tokens_per_second"] * seconds))


def train_ours(client: Client, server: int, how: Mapping[str, Any], task: Task) -> Trained:
    """By the service, whose process `server` is and reads the clock when it hears of a step; `how`: hyperparameters
    beside those that all have. Raises SystemExit."""
    recipe = task.recipe
    hyperparameters = Hyperparameters(
        num_epochs=1,
        learning_rate=recipe.learning_rate,
        warmup_ratio=0,
        lr_scheduler="cosine",
        per_device_batch_size=recipe.per_device,
        gradient_accumulation_steps=recipe.accumulation,
        weight_decay=0,
        max_grad_norm=1,
        max_sequence_tokens=recipe.max_tokens,
        seed=task.seed,
        checkpoint_steps=recipe.steps,  # none: the others write none either
        **{"dtype": "float32", **how},
    )
    base, data = ModelRef(str(task.base)), str(task.work.conversations)
    watch = Watch(task)
    try:
        run = client.training.create(RunSpec(base, data, output_uri=str(task.model), hyperparameters=hyperparameters))
        for event in run.watch():
            watch.note(asdict(event.run.progress), event.time.timestamp(), workers(server))
        result = run.result()
    except BurnishError as error:
        raise SystemExit(str(error)) from error
    return watch.trained(result.train_loss, result.num_tokens, {})


def workers(server: int) -> list[int]:
    """Process ids of what trains for a server."""
    children = psutil.Process(server).children(recursive=True)
    return [child.pid for child in children if child.is_running() and _WORKER in child.cmdline()]


def train_peer(name: str, peers_dir: Path, task: Task) -> Trained:
    """By a peer, in a process with our worker's environment. Raises SystemExit."""
    order = {
        "name": name,
        "base": str(task.base),
        "tokens": str(task.work.tokens),
        "out": str(task.model),
        "seed": task.seed,
        "peers_dir": str(peers_dir),
        "recipe": asdict(task.recipe),
    }
    command = [sys.executable, "-m", "bench.training.contenders", json.dumps(order)]
    watch = Watch(task)
    result: dict[str, Any] | None = None
    log = task.folder / "log"
    with log.open("wb") as words:
        environment = _environment(task.recipe.threads)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, env=environment, text=True)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                now = time.perf_counter()
                message = json.loads(line)
                result = message.get("result")
                if result is None:
                    watch.note(message["progress"], now, [process.pid])
        finally:
            if result is None:
                process.kill()
            process.wait()
    if result is None:
        raise SystemExit(f"it ended with {process.returncode}: {log.read_text(errors='replace')[-_TAIL:]}")
    return watch.trained(**result)
