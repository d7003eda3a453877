"""The books of a run: what it reports after each step, when it writes a checkpoint, and when it stops."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from burnish_services.training import checkpoints
from burnish_services.training.best import Best
from burnish_services.training.core import LOSSES_KEPT, is_spike
from burnish_services.training.job import Job
from burnish_services.training.messages import Checkpointed, Progressed
from burnish_services.training.pausing import SCHEDULE, STALE
from burnish_services.training.refining_trainer import RefiningTrainer
from burnish_services.training.state import Progress, RunError
from burnish_services.training.trainer import SftTrainer

log = logging.getLogger(__name__)
_SUMS = "sums.json"
_WINDOW = 8  # steps over which speed is measured
_SIZES_PER_CHECKPOINT = 3  # the weights and AdamW's two moments
_BYTES_PER_SECOND = 1e9  # that a disk is taken to write, before it has shown what it does


@dataclass(frozen=True, slots=True)
class Sums:
    """What a run has to remember over a resume, besides what the Trainer does."""

    loss: float = 0.0  # of the mean losses of all steps, so that their mean is known at the end
    num_tokens: int = 0  # padding not counted
    last_loss: float | None = None
    learning_rate: float | None = None
    recent: tuple[float, ...] = ()  # mean losses of the last steps
    pausing: str = ""  # why the run pauses here, if it does


def checkpoint_bytes(model: torch.nn.Module) -> int:
    """What a checkpoint takes: of the weights that are trained, and of what AdamW keeps of each."""
    return _SIZES_PER_CHECKPOINT * sum(one.nbytes for one in model.parameters() if one.requires_grad)


class RunCallback(TrainerCallback):
    """Reports each step, measures, decides on checkpoints, and stops when the server wants it or the loss is out of all
    proportion. `evaluate` measures the loss on the evaluation data, None where there are none; `template_digest` is of
    the chat template that these are read by, `stored` what weights are published in."""

    def __init__(
        self,
        job: Job,
        trainer: SftTrainer,
        evaluate: Callable[[], float | None],
        *,
        template_digest: str,
        stored: torch.dtype,
    ) -> None:
        self.sums = Sums()
        self.best = Best(job.directory.best)
        self._job = job
        self._evaluate = evaluate
        self._template_digest = template_digest
        self._stored = stored
        self._trainer = trainer
        self._steps = trainer.args.max_steps
        self._plan = job.record.resolved.plan
        self._step_began = self._last_save = self._save_began = time.monotonic()
        self._needed = checkpoint_bytes(trainer.model)
        self._save_seconds = self._needed / _BYTES_PER_SECOND  # that the last checkpoint took, or the first is to
        self._recent: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._process = psutil.Process()

    def resume(self, checkpoint: Path) -> None:
        """Takes over what a checkpoint holds besides the Trainer's own state."""
        self.sums = Sums(**json.loads((checkpoint / _SUMS).read_text(encoding="utf-8")))
        self._trainer.restore_from(checkpoint)

    def measure(self, step: int) -> float | None:
        """Measures and reports the loss on the evaluation data, and keeps weights that are the best so far where they
        may be published."""
        loss = self._evaluate()
        if loss is not None:
            self.report(step, loss)
            if self._plan.publish_best and step:
                trained = self._trainer.trained_weights()
                if self._trainer.world.is_first:
                    self.best.consider(trained, step, loss)
        return loss

    def report(self, step: int, eval_loss: float | None = None) -> None:
        """Tells the server how far the run is."""
        seconds = sum(seconds for _, seconds in self._recent)
        progress = Progress(
            step=step,
            total_steps=self._steps,
            loss=self.sums.last_loss,
            learning_rate=self.sums.learning_rate,
            tokens_per_second=sum(tokens for tokens, _ in self._recent) / seconds if seconds else None,
            eval_loss=eval_loss,
            seconds_left=(self._steps - step) * seconds / len(self._recent) if seconds else None,
            memory_bytes=self._process.memory_info().rss,
            device_memory_bytes=torch.cuda.memory_reserved() if torch.cuda.is_available() else 0,
            num_tokens=self.sums.num_tokens,
            chat_template_digest=self._template_digest,
        )
        self._job.report.send(Progressed(progress))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See TrainerCallback; only here the model is where it will be trained."""
        if not state.global_step:
            self.measure(0)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See TrainerCallback."""
        self._step_began = time.monotonic()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See TrainerCallback."""
        self._trainer.before_optimizer_step()
        self._check_spike()
        self.sums = replace(self.sums, learning_rate=kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """See TrainerCallback."""
        now = time.monotonic()
        self._recent.append((self._trainer.step_tokens, now - self._step_began))
        loss = self._trainer.step_loss
        self.sums = replace(
            self.sums,
            loss=self.sums.loss + loss,
            num_tokens=self.sums.num_tokens + self._trainer.step_tokens,
            last_loss=loss,
            recent=(*self.sums.recent, loss)[-LOSSES_KEPT:],
        )
        self._trainer.finish_step()
        self.report(state.global_step)
        if self._plan.eval_steps and state.global_step % self._plan.eval_steps == 0:
            self.measure(state.global_step)
        since = now - self._last_save
        # The first process knows what writing one takes; the others wait for it at the next step.
        due = self._trainer.world.is_first and (
            since > self._job.checkpoint_seconds
            or checkpoints.is_due(state.global_step, self._plan.checkpoint_steps, since, self._save_seconds)
        )
        stopping, due = self._trainer.agreed(self._job.stop.is_set(), due)
        pausing = self._why_pause(state.global_step)
        self.sums = replace(self.sums, pausing=pausing)
        if (stopping or due or pausing) and state.global_step < self._steps:
            self._save_began = time.monotonic()
            control.should_save = self._has_room(must=bool(pausing), stopping=stopping)
        if stopping or pausing:
            control.should_training_stop = True
        return control

    def _why_pause(self, step: int) -> str:
        """Why the run is to pause here for new responses; empty: it is not."""
        how, trainer = self._job.record.resolved.refinement, self._trainer
        if how is None or not isinstance(trainer, RefiningTrainer) or step >= self._steps:
            return ""
        if self._job.directory.no_more.is_file():
            return ""
        share = trainer.share_in_effect
        stale = share is not None and share < how.min_effective_share
        why = SCHEDULE if how.is_due(step, trainer.steps_of_a_pass) else STALE if stale else ""
        if why:
            trainer.write_weights()
        return why

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See TrainerCallback; what the Trainer wrote counts from here on."""
        checkpoint = checkpoints.checkpoint_path(Path(args.output_dir), state.global_step)
        self._trainer.accelerator.wait_for_everyone()  # to have written its part
        if self._trainer.world.is_first:
            (checkpoint / _SUMS).write_text(json.dumps(asdict(self.sums)), encoding="utf-8")
            self._trainer.save_to(checkpoint)
            checkpoints.seal(checkpoint)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - self._save_began
        self._job.report.send(Checkpointed(state.global_step))

    def _check_spike(self) -> None:
        loss, recent = self._trainer.step_loss, self.sums.recent
        if is_spike(loss, recent, self._plan.max_loss_ratio):
            raise self._trainer.stopped_by_data(
                "LOSS_SPIKE",
                f"the loss is {loss:.3f} where none of the last {len(recent)} was above {max(recent):.3f}",
                self._trainer.step_samples,
            )

    def _has_room(self, *, must: bool, stopping: bool = False) -> bool:
        """Whether the disk has room for a checkpoint. One that is due may be left out: a run is worth more than its
        next checkpoint, and goes on from the last one if it has to. Raises RunError where it `must` be written, and,
        but for one that is `stopping`, where there is no room for the model in the end, either, while a checkpoint is
        there to go on from: the sooner it fails, the less is done twice."""
        directory, parameters = self._job.directory, list(self._trainer.model.parameters())
        free = shutil.disk_usage(directory.path).free
        in_the_end, at_output, output = self._room_to_publish(parameters)
        there = checkpoints.sealed(directory.checkpoints) is not None
        cramped, hopeless = self._trainer.agreed(free < self._needed, there and not stopping and at_output < in_the_end)
        if not cramped:
            return True
        room = (
            f"a checkpoint takes {self._needed / 1e9:.1f} GB and only {free / 1e9:.1f} GB are free at {directory.path}"
        )
        if hopeless:
            room += f", nor is there room for the model, {in_the_end / 1e9:.1f} GB, at {output}"
            raise RunError("RESOURCE_EXHAUSTED", "DISK_FULL", f"{room}; make room and create the run again")
        if must:
            raise RunError(
                "RESOURCE_EXHAUSTED",
                "DISK_FULL",
                f"{room}; make room and create the run again, or use larger checkpoint_steps",
            )
        log.warning("no checkpoint after step %d: %s; the run goes on", self._trainer.state.global_step, room)
        self._last_save = time.monotonic()
        return False

    def _room_to_publish(self, parameters: Sequence[torch.Tensor]) -> tuple[int, int, Path]:
        """Bytes that the model takes in the end, those that are free where it is put together, and where that is."""
        resolved = self._job.record.resolved
        alone = resolved.lora is not None and resolved.lora.adapter_only  # merged here, to be proved
        place = self._job.directory.path if alone else resolved.output.parent
        size = sum(one.numel() for one in parameters) * self._stored.itemsize
        return size, shutil.disk_usage(place).free, place
