"""HF `Trainer` with our loss, our order of the data, and our way of telling how it goes.

Owns what happens between the first and the last step. The Trainer brings the loop, gradient accumulation, clipping,
devices, checkpoints and resuming.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from burnish_services.training import checkpoints
from burnish_services.training.core import Plan, epoch_order, lr_factor, total_steps
from burnish_services.training.data import TrainingData, TrainingSample
from burnish_services.training.job import Job
from burnish_services.training.loss import ResponseLogits, collate
from burnish_services.training.messages import Checkpointed, Progressed
from burnish_services.training.state import Progress, RunError

_SUMS = "sums.json"
_WINDOW = 8  # steps over which speed is measured
_NAMED = 20  # samples named in a message
_SIZES_PER_CHECKPOINT = 3  # the weights and AdamW's two moments


@dataclass(frozen=True, slots=True)
class Sums:
    """What a run has to remember over a resume, besides what the Trainer does."""

    loss: float = 0.0  # of the mean losses of all steps, so that their mean is known at the end
    num_tokens: int = 0  # padding not counted
    last_loss: float | None = None
    learning_rate: float | None = None


class EpochSampler(Sampler[int]):
    """Indices of an epoch's samples in the order of `core.epoch_order`."""

    def __init__(self, lengths: list[int], plan: Plan) -> None:
        self._lengths = lengths
        self._plan = plan
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self._lengths, self._plan, self._epoch))

    def __len__(self) -> int:
        return len(self._lengths)


class SftTrainer(Trainer):
    """The Trainer on `TrainingData`: the loss is a mean over the response tokens of an optimiser step."""

    def __init__(self, model: Any, arguments: TrainingArguments, data: TrainingData, plan: Plan) -> None:
        self.logits = ResponseLogits(model)
        self.step_loss = 0.0
        self.step_tokens = 0
        self.step_samples: list[TrainingSample] = []
        self._data = data
        self._plan = plan
        super().__init__(model=model, args=arguments, train_dataset=list(range(len(data.samples))))
        # What compute_loss returns is divided by the tokens of the whole step already.
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """See Trainer."""
        sampler = EpochSampler(self._data.lengths, self._plan)
        loader = DataLoader(
            self.train_dataset, batch_size=self._plan.per_device_batch_size, sampler=sampler, collate_fn=self._collate
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def _collate(self, indices: list[int]) -> dict[str, torch.Tensor]:
        batch = collate([self._data.samples[index] for index in indices])
        return {**batch, "samples": torch.tensor(indices)}

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """See Trainer; begins the books of an optimiser step."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        indices = [index for batch in batches for index in batch["samples"].tolist()]
        self.step_samples = [self._data.samples[index] for index in indices]
        self.step_tokens = sum(len(sample.tokens.ids) for sample in self.step_samples)
        self.step_loss = 0.0
        responses = sum(sample.tokens.num_response_tokens for sample in self.step_samples)
        return batches, torch.tensor(responses, device=device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The batch's part of the step's mean. Raises RunError where it is not finite."""
        assert num_items_in_batch is not None
        losses, rows = self.logits.nll(inputs)
        loss = losses.sum() / num_items_in_batch
        value = loss.item()
        if not math.isfinite(value):
            finite = torch.isfinite(losses.detach())
            bad = inputs["samples"][rows[~finite].unique()].tolist() or inputs["samples"].tolist()
            raise self._not_finite(f"the loss is {value}", [self._data.samples[index] for index in bad])
        self.step_loss += value
        return loss

    def check_gradients(self) -> None:
        """Raises RunError where a gradient is not finite: the step would destroy the weights."""
        # By their norm: 0.05 s a step with 135M weights on two cores, where asking every entry took 0.65 s.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise self._not_finite(f"the norm of the gradients is {norm}", self.step_samples)

    def _not_finite(self, what: str, samples: list[TrainingSample]) -> RunError:
        names = ", ".join(sample.name for sample in samples[:_NAMED])
        more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
        return RunError(
            "DATA_LOSS",
            "NOT_FINITE",
            f"{what} in step {self.state.global_step + 1}; samples: {names}{more}. Nothing is published. Look at these "
            "samples, or use a smaller learning_rate or max_grad_norm",
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """See Trainer; the schedule is `core.lr_factor`."""
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: lr_factor(self._plan, step, num_training_steps)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler


class RunCallback(TrainerCallback):
    """Reports each step, decides on checkpoints, and stops when the server wants it."""

    def __init__(self, job: Job, trainer: SftTrainer, steps: int) -> None:
        self.sums = Sums()
        self._job = job
        self._trainer = trainer
        self._steps = steps
        self._plan = job.record.resolved.plan
        self._step_began = self._last_save = time.monotonic()
        self._recent: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._process = psutil.Process()

    def resume(self, checkpoint: Path) -> None:
        """Takes over the sums of a checkpoint."""
        self.sums = Sums(**json.loads((checkpoint / _SUMS).read_text(encoding="utf-8")))

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
        )
        self._job.report.send(Progressed(progress))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See TrainerCallback."""
        self._step_began = time.monotonic()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See TrainerCallback."""
        self._trainer.check_gradients()
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
        )
        self.report(state.global_step)
        stopping = self._job.stop.is_set()
        due = state.global_step % self._plan.checkpoint_steps == 0
        overdue = now - self._last_save > self._job.checkpoint_seconds
        if (stopping or due or overdue) and state.global_step < self._steps:
            self._check_space()
            control.should_save = True
        if stopping:
            control.should_training_stop = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """See TrainerCallback; what the Trainer wrote counts from here on."""
        checkpoint = checkpoints.checkpoint_path(Path(args.output_dir), state.global_step)
        (checkpoint / _SUMS).write_text(json.dumps(asdict(self.sums)), encoding="utf-8")
        checkpoints.seal(checkpoint)
        self._last_save = time.monotonic()
        self._job.report.send(Checkpointed(state.global_step))

    def _check_space(self) -> None:
        needed = _SIZES_PER_CHECKPOINT * sum(p.nbytes for p in self._trainer.model.parameters())
        free = shutil.disk_usage(self._job.directory.path).free
        if free < needed:
            raise RunError(
                "RESOURCE_EXHAUSTED",
                "DISK_FULL",
                f"a checkpoint takes {needed / 1e9:.1f} GB and only {free / 1e9:.1f} GB are free at "
                f"{self._job.directory.path}; make room and create the run again, or use larger checkpoint_steps",
            )


def build_trainer(job: Job, model: Any, data: TrainingData) -> tuple[SftTrainer, RunCallback]:
    """A trainer that is ready to train, and the callback that keeps its books."""
    plan = job.record.resolved.plan
    steps = total_steps(plan, len(data.samples))
    arguments = TrainingArguments(
        output_dir=str(job.directory.checkpoints),
        max_steps=steps,
        per_device_train_batch_size=plan.per_device_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps,
        gradient_checkpointing=plan.gradient_checkpointing,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.max_grad_norm,
        optim="adamw_torch_fused",
        # The usual mixed precision of GPUs. On a CPU it would save a fifth of the time, but then a forward pass sees
        # weights rounded to bfloat16, and a short run looks as if it learnt nothing.
        bf16=torch.cuda.is_available() and plan.dtype == "float32",
        seed=plan.seed % (1 << 32),
        # When to log, evaluate and save is the callback's business.
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = SftTrainer(model, arguments, data, plan)
    callback = RunCallback(job, trainer, steps)
    trainer.add_callback(callback)
    return trainer, callback
