"""HF `Trainer` with our loss and our order of the data.

Owns what happens within a step; what is told about it is in `books.py`. The Trainer brings the loop, gradient
accumulation, clipping, devices, checkpoints and resuming.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.data_loader import DataLoaderShard
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, broadcast_object_list, gather_object
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import is_liger_kernel_available

from burnish_services.engine.number_formats import has_bfloat16
from burnish_services.training.core import Plan, epoch_order, lr_factor, shared_out, step_batches, steps_per_epoch
from burnish_services.training.data import TrainingData, TrainingSample
from burnish_services.training.job import Job
from burnish_services.training.loss import Batch, ResponseLoss, collate, without_targets
from burnish_services.training.state import RunError
from burnish_services.training.world import ALONE, World

ItemT = TypeVar("ItemT")
_NAMED = 20  # samples named in a message
# Weights, gradients and moments are shared out layer by layer; checkpoints are written by all processes at once.
_FSDP = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "SHARDED_STATE_DICT"}

# The loss is our own: it is wanted token by token.
_LIGER = {"rope": True, "rms_norm": True, "swiglu": True, "cross_entropy": False, "fused_linear_cross_entropy": False}


class StepSampler(Sampler[list[int]]):
    """The batches of one process, epoch by epoch, in the order of `core.epoch_order`."""

    def __init__(self, lengths: list[int], plan: Plan, world: World) -> None:
        self._lengths = lengths
        self._plan = plan
        self._world = world
        self._epoch = 0
        self._order: tuple[int, list[int]] = (-1, [])  # of the epoch that was last asked for

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self._epoch = epoch

    def samples(self, step: int) -> list[int]:
        """Indices of the samples of an optimiser step, counted from the beginning of the run, in all processes."""
        epoch, place = divmod(step, steps_per_epoch(self._plan, len(self._lengths)))
        start = place * self._plan.samples_per_step
        return self._ordered(epoch)[start : start + self._plan.samples_per_step]

    def _ordered(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(self._lengths, self._plan, epoch))
        return self._order[1]

    def batches(self, step: int) -> list[list[int]]:
        """Indices of the samples of each batch that this process reads of an optimiser step."""
        return shared_out(step_batches(self.samples(step), self._plan), self._world.rank, self._world.size)

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = steps_per_epoch(self._plan, len(self._lengths))
        for step in range(self._epoch * per_epoch, (self._epoch + 1) * per_epoch):
            yield from self.batches(step)

    def __len__(self) -> int:
        whole, rest = divmod(len(self._lengths), self._plan.samples_per_step)
        last = shared_out(step_batches(range(rest), self._plan), self._world.rank, self._world.size)
        return whole * self._plan.gradient_accumulation_steps // self._world.size + len(last)


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch of the step at hand: its part of the step's loss, and the losses of its tokens with their owners."""

    loss: torch.Tensor
    losses: torch.Tensor
    owners: torch.Tensor
    samples: Sequence[TrainingSample]

    def not_finite(self) -> list[TrainingSample]:
        """The samples with a loss that is not finite."""
        return [self.samples[index] for index in self.owners[~torch.isfinite(self.losses)].unique().tolist()]


class SftTrainer(Trainer):
    """The Trainer on `TrainingData`: the loss is a mean over the response tokens of an optimiser step, each counted by
    its sample's weight."""

    def __init__(
        self, model: Any, arguments: TrainingArguments, data: TrainingData, plan: Plan, world: World = ALONE
    ) -> None:
        self.response_loss = ResponseLoss(model, in_parts=world.is_alone)
        self.world = world
        self.step_loss = 0.0  # in nats, of the last step, once its gradients are there
        self.step_tokens = 0
        self.step_samples: list[TrainingSample] = []
        self._sampler = StepSampler(data.lengths, plan, world)
        self._seen: list[Seen] = []
        self._gradient_norm: Any = None  # of the step at hand, before clipping
        self._data = data
        self._plan = plan
        super().__init__(model=model, args=arguments, train_dataset=list(range(len(data.samples))))
        # What compute_loss returns is divided by the tokens of the whole step already.
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)

    def create_accelerator_and_postprocess(self) -> None:
        """See Trainer; has FSDP on CPUs too, where accelerate knows none though torch does."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if not self.world.is_alone and state.distributed_type is not DistributedType.FSDP:
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.is_fsdp_enabled: bool = True
        if not self.world.is_alone:
            # Weights are gathered in the format that they are multiplied in, and gradients added up and sent in
            # float32, as one GPU adds them; accelerate would have all in bfloat16.
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if self.args.bf16 else MixedPrecisionPolicy()
            state.fsdp_plugin.mixed_precision_policy = policy

    def get_train_dataloader(self) -> DataLoader[Any]:
        """See Trainer."""
        on_gpu = self.accelerator.device.type == "cuda"
        return DataLoaderShard(
            self.train_dataset,
            device=self.accelerator.device,
            batch_sampler=self._sampler,
            collate_fn=self._collate,
            # So that the next step's batches are made and copied while the GPU still works on this one's.
            pin_memory=on_gpu,
            _non_blocking=on_gpu,
        )

    def _collate(self, indices: list[int]) -> Batch:
        samples = [self._data.samples[index] for index in indices]
        weights = torch.tensor([sample.weight for sample in samples])
        # Places of samples stay here: on a GPU, asking for them would wait for all that it has to do.
        return {**self.collate(samples), "samples": indices, "weights": weights}

    def collate(self, samples: Sequence[TrainingSample]) -> Batch:
        """Samples as a batch, padded or packed as the plan says. No samples: one of which nothing is learnt, for a
        process that takes part in a step with nothing to do."""
        if samples:
            return collate(samples, packing=self._plan.packing)
        return without_targets(collate(self._data.samples[:1], packing=self._plan.packing))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """See Trainer; begins the books of an optimiser step, which are those of all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step_samples = [self._data.samples[index] for index in self._sampler.samples(self.state.global_step)]
        self.step_tokens = sum(len(sample.tokens.ids) for sample in self.step_samples)
        self._seen = []
        weighted = sum(sample.weighted_tokens for sample in self.step_samples)
        return batches, torch.full((), weighted, dtype=torch.float32, device=device)

    def compute_loss_context_manager(self) -> ExitStack:
        """See Trainer; has the run's precision outside of the model's own forward pass as well, where the head is."""
        stack = super().compute_loss_context_manager()
        stack.enter_context(self.accelerator.autocast())
        if self._plan.dtype == "mixed" and not torch.cuda.is_available():
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        return stack

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The batch's part of the step's mean."""
        assert num_items_in_batch is not None
        losses, owners = self.response_loss.nll(inputs)
        samples = [self._data.samples[index] for index in inputs["samples"]]
        loss = (inputs["weights"][owners] * losses).sum() / num_items_in_batch
        self.note(loss, losses, owners, samples)
        return loss * self.world.size  # since gradients are averaged over the processes

    def note(
        self, loss: torch.Tensor, losses: torch.Tensor, owners: torch.Tensor, samples: Sequence[TrainingSample]
    ) -> None:
        """Remembers a batch's part of the step's loss, and the losses of its tokens: each of one of the `samples`, its
        owner."""
        self._seen.append(Seen(loss.detach(), losses.detach(), owners, samples))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """See Trainer; remembers it, since reckoning it again takes 0.05 s a step with 135M weights on two cores."""
        self._gradient_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self._gradient_norm

    def before_optimizer_step(self) -> None:
        """What is to be done once the gradients of a step are there. Raises RunError where loss or gradients are not
        finite: the step would destroy the weights."""
        total = torch.stack([seen.loss for seen in self._seen]).double().sum()
        self.step_loss = self.accelerator.reduce(total, reduction="sum").item()
        if not math.isfinite(self.step_loss):
            bad = self.gathered([sample for seen in self._seen for sample in seen.not_finite()])
            raise self.stopped_by_data("NOT_FINITE", f"the loss is {self.step_loss}", bad or self.step_samples)
        # By their norm, which is there; asking every entry would take 0.65 s.
        norm = self._gradient_norm
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(norm):
            raise self.stopped_by_data("NOT_FINITE", f"the norm of the gradients is {norm}", self.step_samples)

    def finish_step(self) -> None:
        """What is to be done once an optimiser step is over; here there is nothing."""

    def save_to(self, checkpoint: Path) -> None:
        """Adds to a checkpoint what the Trainer does not know of; called in the first process. Here: nothing."""

    def restore_from(self, checkpoint: Path) -> None:
        """Takes over what `save_to` wrote."""

    def gathered(self, found: list[ItemT]) -> list[ItemT]:
        """What all processes found, in their order."""
        together: list[ItemT] = found if self.world.is_alone else gather_object(found)
        return together

    def told(self, what: ItemT) -> ItemT:
        """What the first process says, in all of them."""
        if self.world.is_alone:
            return what
        together: list[ItemT] = broadcast_object_list([what])
        return together[0]

    def agreed(self, *flags: bool) -> list[bool]:
        """The flags that are set in any process, so that all do the same."""
        if self.world.is_alone:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.float32, device=self.accelerator.device)
        return [count > 0 for count in self.accelerator.reduce(counts, reduction="sum").tolist()]

    def trained_weights(self) -> dict[str, torch.Tensor]:
        """The weights that are trained, whole, by name; to be called in all processes, and empty but in the first."""
        names = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        found = self.accelerator.get_state_dict(self.model) or {}
        return {name: found[name].contiguous() for name in names & found.keys()}

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


def has_liger() -> bool:
    """Whether there are kernels that do in one pass over memory what torch does in several."""
    return torch.cuda.is_available() and is_liger_kernel_available()


def training_arguments(job: Job, steps: int) -> TrainingArguments:
    """The run's plan in the Trainer's words."""
    plan, alone = job.record.resolved.plan, job.world.is_alone
    return TrainingArguments(
        output_dir=str(job.directory.checkpoints),
        max_steps=steps,
        per_device_train_batch_size=plan.per_device_batch_size,
        gradient_accumulation_steps=plan.gradient_accumulation_steps // job.world.size,
        gradient_checkpointing=plan.gradient_checkpointing,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.max_grad_norm,
        optim="adamw_torch_fused" if alone else "adamw_torch",
        # On a GPU float32 is the usual mixed precision too. On a CPU it is not: many have no instructions for it, and
        # small steps are lost on a forward pass that sees weights rounded, until they add up. Where it is asked for
        # there, `compute_loss_context_manager` has it, so that what is measured is not rounded.
        bf16=torch.cuda.is_available() and plan.dtype != "bfloat16" and has_bfloat16(),
        use_cpu=not torch.cuda.is_available(),
        fsdp=not alone,
        fsdp_config=None if alone else _FSDP,
        # Gradients stay shared out between the passes of a step, or each process would hold all of them.
        accelerator_config=None if alone else {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        ddp_backend=None if alone or torch.cuda.is_available() else "gloo",
        seed=plan.seed % (1 << 32),
        # When to log, evaluate and save is the callback's business.
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_nan_inf_filter=False,  # it waits for each batch, and is for logs
        use_liger_kernel=has_liger(),
        liger_kernel_config=_LIGER,
    )
