"""The fake trainer: a training run without a model, milliseconds a step, with everything else real.

Reads and tokenises real data, reports progress, writes checkpoints, resumes, stops and publishes as `sft.py` does.
What it publishes is a fake model whose seed follows from base, data and hyperparameters, with more skill than its
base; the base's `fault` makes it fail in the ways real training fails. The weights that it learns follow from nothing
but the samples' tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from burnish_services.engine.canary import CANARY_TEXT
from burnish_services.engine.fake import FakeModel, FakeTokenizer, canary_mean_nll, read_fake_model, write_fake_model
from burnish_services.training import checkpoints, publish, sample_weights
from burnish_services.training.core import Plan, epoch_order, lr_factor, steps_per_epoch, total_steps
from burnish_services.training.data import TrainingData
from burnish_services.training.job import Job, StoppedEarly
from burnish_services.training.messages import Checkpointed, Progressed
from burnish_services.training.pausing import SCHEDULE, PausedRun, publish_paused
from burnish_services.training.state import Pause, Progress, Result, RunError

_STATE = "state.json"
_MEMORY_BYTES = 1 << 20


def train(job: Job) -> Result:
    """See `worker._trainer`."""
    record, plan = job.record, job.record.resolved.plan
    job.check_base()
    base = read_fake_model(record.resolved.base)
    tokenizer = FakeTokenizer(record.resolved.chat_template)
    data = job.read_training_data(tokenizer, plan.max_sequence_tokens)
    eval_data = job.read_eval_data(tokenizer, plan.max_sequence_tokens)
    if record.resolved.selection is not None:
        job.read_validation_data(tokenizer, plan.max_sequence_tokens)
        sample_weights.write_names(job.directory.weights, [sample.name for sample in data.samples])
    run = _FakeRun(job, base, data, tokenizer.template_digest, has_eval=eval_data is not None)
    run.resume()
    run.work()
    model = _trained(job, base, run.steps)
    eval_loss = run.eval_loss() if eval_data is not None else None

    def write(staging: Path) -> dict[str, Any]:
        write_fake_model(staging, **model)
        canary = {"text": CANARY_TEXT, "mean_nll": canary_mean_nll(staging)}
        training = {"train_loss": run.mean_loss, "eval_loss": eval_loss, "num_samples": len(data.samples)}
        return publish.card(record, canary=canary, training=training, packages=[], device="none")

    def result(digest: str) -> Result:
        return Result(
            model_uri=record.resolved.model_uri,
            model_digest=digest,
            train_loss=run.mean_loss,
            eval_loss=eval_loss,
            num_samples=len(data.samples),
            skipped=tuple(skipped.name for skipped in data.skipped),
            data_digest=data.digest,
            num_tokens=run.num_tokens,
            published_step=run.steps,
        )

    return publish.publish(job.directory, record, write, result)


class _FakeRun:
    """Steps done, and the sums that survive in a checkpoint."""

    def __init__(self, job: Job, base: FakeModel, data: TrainingData, template_digest: str, *, has_eval: bool) -> None:
        self._job, self._base, self._data, self._has_eval = job, base, data, has_eval
        self._template_digest = template_digest
        self._plan: Plan = job.record.resolved.plan
        self.steps = total_steps(self._plan, len(data.samples))
        self.step = 0
        self.num_tokens = 0
        self._losses: list[float] = []

    @property
    def mean_loss(self) -> float:
        """Mean over the steps done."""
        return math.fsum(self._losses) / len(self._losses)

    def eval_loss(self) -> float:
        """What the fake model would give on other data after the steps done."""
        return round(2.0 - 0.5 * self._base.skill - 0.4 * self.step / self.steps, 6)

    def resume(self) -> None:
        """Goes on from the last whole checkpoint, if there is one."""
        found = checkpoints.newest(self._job.directory.checkpoints)
        if found is not None:
            state = json.loads((found / _STATE).read_text(encoding="utf-8"))
            self.step, self.num_tokens, self._losses = state["step"], state["num_tokens"], state["losses"]
            if state.get("pausing") and not self._job.directory.pool(self.step).is_file():
                raise PausedRun(self._pause(state["pausing"]))
        self._report(eval_loss=self.eval_loss() if self._has_eval else None)

    def work(self) -> None:
        """Does the steps that are left."""
        samples = self._plan.samples_per_step
        per_epoch = math.ceil(len(self._data.samples) / samples)
        while self.step < self.steps:
            epoch, first = divmod(self.step, per_epoch)
            order = epoch_order(self._data.lengths, self._plan, epoch)
            batch = order[first * samples : (first + 1) * samples]
            self._step(batch)
            if self._job.record.resolved.selection is not None and (first + 1 == per_epoch or self.step == self.steps):
                self._write_weights()
            pausing = self._why_pause()
            if pausing:
                self._write_weights()
                self._save(pausing)
                raise PausedRun(self._pause(pausing))
            due = checkpoints.is_due(self.step, self._plan.checkpoint_steps, 0.0, 0.0) and self.step < self.steps
            if due or self._job.stop.is_set():
                self._save()
            if self._job.stop.is_set() and self.step < self.steps:
                raise StoppedEarly

    def _step(self, batch: list[int]) -> None:
        time.sleep(self._job.fake_step_seconds)
        if self._base.fault == "dead" and self.step == self.steps // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._base.fault == "nan" and self.step == self.steps // 2:
            names = ", ".join(self._data.samples[index].name for index in batch)
            raise RunError("DATA_LOSS", "NOT_FINITE", f"the loss of step {self.step + 1} is nan; samples: {names}")
        noise = hashlib.sha256(f"{self._job.record.resolved.data_digest} {batch}".encode()).digest()[0] / 2560
        loss = round(2.0 - 0.5 * self._base.skill - 0.4 * self.step / self.steps + noise, 6)
        self.step += 1
        self.num_tokens += sum(self._data.lengths[index] for index in batch)
        self._losses.append(loss)
        self._report()

    def _write_weights(self) -> None:
        ids = (np.array(sample.tokens.ids, dtype=np.int64).tobytes() for sample in self._data.samples)
        directions = np.array([hashlib.sha256(content).digest()[0] / 127.5 - 1 for content in ids])
        logits = 2 * directions * self.step / self.steps
        weights = 2 / (1 + np.exp(-logits))
        sample_weights.write_snapshot(self._job.directory.weights, self.step, logits, weights)

    def _report(self, *, eval_loss: float | None = None) -> None:
        seconds = self._job.fake_step_seconds
        rate = self._plan.learning_rate * lr_factor(self._plan, self.step - 1, self.steps)
        progress = Progress(
            step=self.step,
            total_steps=self.steps,
            loss=self._losses[-1] if self.step else None,
            learning_rate=rate if self.step else None,
            tokens_per_second=self.num_tokens / self.step / max(seconds, 1e-3) if self.step else None,
            eval_loss=eval_loss,
            seconds_left=(self.steps - self.step) * seconds,
            memory_bytes=_MEMORY_BYTES,
            num_tokens=self.num_tokens,
            chat_template_digest=self._template_digest,
        )
        self._job.report.send(Progressed(progress))

    def _why_pause(self) -> str:
        how = self._job.record.resolved.refinement
        if how is None or self.step >= self.steps or self._job.directory.no_more.is_file():
            return ""
        return SCHEDULE if how.is_due(self.step, steps_per_epoch(self._plan, len(self._data.samples))) else ""

    def _pause(self, why: str) -> Pause:
        def write(staging: Path) -> None:
            write_fake_model(staging, **_trained(self._job, self._base, self.step))

        return publish_paused(self._job, self.step, why, None, write)

    def _save(self, pausing: str = "") -> None:
        path = checkpoints.checkpoint_path(self._job.directory.checkpoints, self.step)
        path.mkdir(parents=True, exist_ok=True)
        state = {"step": self.step, "num_tokens": self.num_tokens, "losses": self._losses, "pausing": pausing}
        (path / _STATE).write_text(json.dumps(state), encoding="utf-8")
        checkpoints.seal(path)
        self._job.report.send(Checkpointed(self.step))


def _trained(job: Job, base: FakeModel, steps: int) -> dict[str, Any]:
    """The published model: the same for the same base, data and hyperparameters, wherever they lie."""
    resolved = job.record.resolved
    # By what differs from the defaults, so that more to ask for makes no other models of what was asked for before.
    usual = asdict(Plan())
    asked = {name: value for name, value in asdict(resolved.plan).items() if value != usual[name]}
    what = [resolved.base_digest, resolved.data_digest, asked, resolved.chat_template]
    if resolved.lora is not None:
        what.append(asdict(resolved.lora))
    if resolved.selection is not None:
        what += [asdict(resolved.selection.how), resolved.selection.validation_digest]
    if resolved.refinement is not None:
        pools = sorted(job.directory.pool(0).parent.glob("*.jsonl"))
        what += [asdict(resolved.refinement), *(hashlib.sha256(pool.read_bytes()).hexdigest() for pool in pools)]
    seed = int.from_bytes(hashlib.sha256(json.dumps(what).encode()).digest()[:6], "big")
    skill = base.skill + 0.2 * (1.0 - base.skill) * steps / (steps + 4)
    return {
        "name": f"{base.name}-sft",
        "seed": seed,
        "skill": round(skill, 6),
        "fault": base.fault if base.fault == "load" else "",
        "latency_seconds": base.latency_seconds,
    }
