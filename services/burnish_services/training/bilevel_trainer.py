"""Bilevel data selection inside training: θ, the auxiliary θ̂ and the selector, step by step.

    θ ← θ − α [λ ∇L_V + (1 − λ) mean_B ω_i ∇ℓ_i(θ)]
    θ̂ ← θ̂ − α mean_B ω_i ∇ℓ_i(θ̂)                      with `auxiliary` only
    s ← s − β …                                         `bilevel/selector.py`

All three go by the weights from before the step, and ℓ_i is the mean over a sample's response tokens, so that a long
sample counts no more than a short one. AdamW takes the place of plain descent, with α from the run's schedule.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from burnish_services.training import sample_weights
from burnish_services.training.bilevel.selector import SELECTORS, penalty
from burnish_services.training.core import Bilevel, Plan, steps_per_epoch, validation_batch
from burnish_services.training.data import TrainingData, TrainingSample
from burnish_services.training.loss import Batch, ResponseLoss, sample_means
from burnish_services.training.trainer import SftTrainer
from burnish_services.training.world import ALONE, World

_SELECTOR = "selector.npz"
_AUXILIARY = "auxiliary.pt"


class BilevelTrainer(SftTrainer):
    """The trainer whose samples' weights are learnt. `folder` is where snapshots of them go."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        data: TrainingData,
        plan: Plan,
        how: Bilevel,
        validation: TrainingData,
        folder: Path,
        world: World = ALONE,
    ) -> None:
        self._auxiliary = Auxiliary(model, plan, self.get_decay_parameter_names(model)) if how.auxiliary else None
        super().__init__(model, arguments, data, plan, world)
        if self._auxiliary is not None:
            self._auxiliary.model.to(self.args.device)
        self.selector = SELECTORS[how.weighting](len(data.samples), how.selector_learning_rate)
        self._how = how
        self._validation = validation
        self._folder = folder
        # Of the step at hand: λ, the validation samples that go with each batch to come, by forward pass, and what was
        # found about the data's samples.
        self._share = 0.0
        self._validation_batches: list[list[list[TrainingSample]]] = []
        self._validation_count = 0
        # Of each batch: places of its samples, their losses, and their losses under the auxiliary model.
        self._found: list[tuple[list[int], torch.Tensor, torch.Tensor | None]] = []
        if world.is_first:
            sample_weights.write_names(folder, [sample.name for sample in data.samples])

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """See SftTrainer; a batch of data is followed by its share of as many validation samples."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        step, world = self.state.global_step, self.world
        epoch = step // steps_per_epoch(self._plan, len(self._data.samples))
        self._share = penalty(self._how.penalty_start, self._how.penalty_decay, epoch)
        self._found = []
        # As many in every step, also in an epoch's last: what comes next follows from the number of the step alone.
        available = self._validation.samples
        chosen = validation_batch(len(available), self._plan.samples_per_step, self._plan.seed, step)
        self._validation_count = len(chosen)
        chosen.sort(key=lambda index: -len(available[index].tokens.ids))
        parts = np.array_split(np.array(chosen), len(batches) * world.size)[world.rank :: world.size]
        # An epoch's last step has fewer batches, whose shares are larger than what one forward pass may have: they take
        # several, as many in all processes.
        passes = -(-len(chosen) // (len(batches) * world.size * self._plan.per_device_batch_size))
        self._validation_batches = [
            [[available[index] for index in piece] for piece in np.array_split(part, passes)] for part in parts
        ]
        self.step_tokens += sum(len(available[index].tokens.ids) for index in chosen) if self._share > 0 else 0
        return batches, torch.tensor(len(self.step_samples), device=device)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """See Trainer; adds the gradients of a batch of data, and of the validation samples that go with it."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        indices = inputs["samples"]
        samples = [self._data.samples[index] for index in indices]
        learnt = torch.tensor(self.selector.weights(np.array(indices, dtype=np.int64)), dtype=torch.float32)
        counted = learnt.to(self.args.device) * inputs["weights"] / len(self.step_samples)

        with torch.set_grad_enabled(self._share < 1):
            means = self._sample_losses(self.response_loss, inputs, samples, (1 - self._share) * counted)
        references = None
        if self._auxiliary is not None:
            references = self._sample_losses(self._auxiliary.response_loss, inputs, samples, counted, is_told=False)
        self._found.append((indices, means, references))

        for validation in self._validation_batches.pop(0):
            if self._share > 0 and (validation or not self.world.is_alone):
                batch = self._prepare_inputs(self.collate(validation))
                each = torch.full((len(validation),), self._share / self._validation_count, device=self.args.device)
                self._sample_losses(self.response_loss, batch, validation, each)
        return self._seen[-1].loss

    def _sample_losses(
        self,
        loss: ResponseLoss,
        batch: Batch,
        samples: list[TrainingSample],
        weights: torch.Tensor,
        *,
        is_told: bool = True,
    ) -> torch.Tensor:
        """ℓ of each sample, (samples,), float64; adds the gradients of their weighted sum, which `is_told` as a part of
        the step's loss."""
        with self.compute_loss_context_manager():
            losses, owners = loss.nll(batch)
        means = sample_means(losses, owners, len(samples))
        part = (weights * means).sum()
        if part.requires_grad:
            self.accelerator.backward(part * self.world.size)
        self.note(part if is_told else part * 0, losses, owners, samples)
        return means.detach().double()

    def before_optimizer_step(self) -> None:
        """See SftTrainer; the auxiliary model and the selector take their steps."""
        super().before_optimizer_step()
        if self._auxiliary is not None:
            self._auxiliary.step(self.optimizer.param_groups[0]["lr"], self.world)
        found: list[tuple[int, float, float]] = []
        for places, means, under_auxiliary in self._found:
            references = means if under_auxiliary is None else under_auxiliary
            found += zip(places, means.tolist(), references.tolist(), strict=True)
        gathered = self.gathered(found)
        if not gathered:  # of all samples the model's own responses are learnt from
            return
        indices, losses, others = map(np.array, zip(*gathered, strict=True))
        self.selector.update(indices, losses, None if self._auxiliary is None else others)

    def finish_step(self) -> None:
        """See SftTrainer; keeps the weights at the end of an epoch, and of the run."""
        step = self.state.global_step
        if step % steps_per_epoch(self._plan, len(self._data.samples)) == 0 or step == self.args.max_steps:
            self.write_weights()

    def write_weights(self) -> None:
        """Keeps the weights as they are; the first process does."""
        if self.world.is_first:
            weights = self.selector.weights(np.arange(len(self._data.samples)))
            step = self.state.global_step
            sample_weights.write_snapshot(self._folder, step, self.selector.logits, weights)

    def save_to(self, checkpoint: Path) -> None:
        """See SftTrainer; all processes know the same."""
        arrays: dict[str, Any] = self.selector.state()
        np.savez(checkpoint / _SELECTOR, **arrays)
        if self._auxiliary is not None:
            torch.save(self._auxiliary.state(), checkpoint / _AUXILIARY)

    def restore_from(self, checkpoint: Path) -> None:
        """See SftTrainer."""
        with np.load(checkpoint / _SELECTOR, allow_pickle=False) as arrays:
            self.selector.restore(dict(arrays))
        if self._auxiliary is not None:
            saved = torch.load(checkpoint / _AUXILIARY, map_location=self.args.device, weights_only=True)
            self._auxiliary.restore(saved)


class Auxiliary:
    """θ̂: another set of the weights that are trained, sharing those that are not, with an optimiser of its own."""

    def __init__(self, model: Any, plan: Plan, decaying: Collection[str]) -> None:
        """`decaying`: names of the weights that the Trainer has decay, which are all but those of norms, and biases."""
        frozen = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
        self.model = copy.deepcopy(model, frozen)
        self.model.train()
        if plan.gradient_checkpointing:  # the Trainer has its own model do so
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.response_loss = ResponseLoss(self.model)
        self._trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._max_grad_norm = plan.max_grad_norm
        parts: dict[float, list[torch.nn.Parameter]] = {}  # by how they decay; one where nothing does
        for name, weight in self._trained.items():
            parts.setdefault(plan.weight_decay if name in decaying else 0.0, []).append(weight)
        groups = [{"params": part, "weight_decay": decay} for decay, part in parts.items()]
        self._optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)

    def step(self, learning_rate: float, world: World) -> None:
        """Descends the gradients that were gathered, which are averaged over all processes first."""
        if not world.is_alone:
            for parameter in self._trained.values():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= world.size
        if self._max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self._trained.values(), self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"weights": dict(self._trained), "optimizer": self._optimizer.state_dict()}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        for name, parameter in self._trained.items():
            parameter.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
