"""HF `Trainer` with our loss and our order of the data.

Owns what happens within a step; what is told about it is in `books.py`. The Trainer brings the loop, gradient
accumulation, clipping, devices, checkpoints and resuming.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from burnish_services.training.core import Plan, epoch_order, lr_factor
from burnish_services.training.data import TrainingData, TrainingSample
from burnish_services.training.job import Job
from burnish_services.training.loss import ResponseLoss, collate
from burnish_services.training.state import RunError

_NAMED = 20  # samples named in a message


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
    """The Trainer on `TrainingData`: the loss is a mean over the response tokens of an optimiser step, each counted by
    its sample's weight."""

    def __init__(self, model: Any, arguments: TrainingArguments, data: TrainingData, plan: Plan) -> None:
        self.response_loss = ResponseLoss(model)
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
        batch = self.collate([self._data.samples[index] for index in indices])
        return {**batch, "samples": torch.tensor(indices)}

    def collate(self, samples: Sequence[TrainingSample]) -> dict[str, torch.Tensor]:
        """Samples as a batch, padded or packed as the plan says."""
        return collate(samples, packing=self._plan.packing)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """See Trainer; begins the books of an optimiser step."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        indices = [index for batch in batches for index in batch["samples"].tolist()]
        self.step_samples = [self._data.samples[index] for index in indices]
        self.step_tokens = sum(len(sample.tokens.ids) for sample in self.step_samples)
        self.step_loss = 0.0
        weighted = sum(sample.weighted_tokens for sample in self.step_samples)
        return batches, torch.tensor(weighted, dtype=torch.float32, device=device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The batch's part of the step's mean. Raises RunError where it is not finite."""
        assert num_items_in_batch is not None
        losses, owners = self.response_loss.nll(inputs)
        samples = [self._data.samples[index] for index in inputs["samples"].tolist()]
        weights = torch.tensor([sample.weight for sample in samples], device=losses.device)
        loss = (weights[owners] * losses).sum() / num_items_in_batch
        self.check_losses(loss, losses, owners, samples)
        self.step_loss += loss.item()
        return loss

    def before_optimizer_step(self) -> None:
        """What is to be done once the gradients of a step are there. Raises RunError where one is not finite."""
        self._check_gradients()

    def finish_step(self) -> None:
        """What is to be done once an optimiser step is over; here there is nothing."""

    def save_to(self, checkpoint: Path) -> None:
        """Adds to a checkpoint what the Trainer does not know of; here there is nothing."""

    def restore_from(self, checkpoint: Path) -> None:
        """Takes over what `save_to` wrote."""

    def check_losses(
        self, loss: torch.Tensor, losses: torch.Tensor, owners: torch.Tensor, samples: Sequence[TrainingSample]
    ) -> None:
        """Raises RunError where `loss` is not finite, naming those of the `samples` to blame: the `owners` of such
        `losses`."""
        if torch.isfinite(loss):
            return
        bad = owners[~torch.isfinite(losses.detach())].unique().tolist()
        blamed = [samples[index] for index in bad] or samples
        raise self.stopped_by_data("NOT_FINITE", f"the loss is {loss.item()}", blamed)

    def _check_gradients(self) -> None:
        """Raises RunError where a gradient is not finite: the step would destroy the weights."""
        # By their norm: 0.05 s a step with 135M weights on two cores, where asking every entry took 0.65 s.
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise self.stopped_by_data("NOT_FINITE", f"the norm of the gradients is {norm}", self.step_samples)

    def stopped_by_data(self, reason: str, what: str, samples: Sequence[TrainingSample]) -> RunError:
        """The error that ends the run in the step at hand, with the samples to look at."""
        names = ", ".join(sample.name for sample in samples[:_NAMED])
        more = f" and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
        return RunError(
            "DATA_LOSS",
            reason,
            f"{what} in step {self.state.global_step + 1}; samples: {names}{more}. Nothing is published. Look at these "
            "samples, or use a smaller learning_rate or max_grad_norm"
            + (", or another max_loss_ratio" if reason == "LOSS_SPIKE" else ""),
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """See Trainer; the schedule is `core.lr_factor`."""
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer, lambda step: lr_factor(self._plan, step, num_training_steps)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler


def training_arguments(job: Job, steps: int) -> TrainingArguments:
    """The run's plan in the Trainer's words."""
    plan = job.record.resolved.plan
    return TrainingArguments(
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
