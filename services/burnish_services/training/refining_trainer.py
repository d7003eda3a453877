"""Online self-refinement inside training: for some questions the model learns from its own responses instead of those
in the data.

    loss = λ L_V + (1 − λ) (Σ_{i ∉ Q} ω_i ℓ_i + Σ_{x ∈ Q} Σ_k w_k(x) ℓ(y_k)) / |B|

Q and the responses y_k are the pool's (`pool.py`), w_k those of `bilevel/importance.py`, by the weights of the step at
hand, and held fixed in its gradient. The selector learns from i ∉ Q alone. The rest is bilevel data selection's.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from burnish_services.training.bilevel.importance import (
    TOKEN,
    Floats,
    Weighting,
    effective_share,
    response_weights,
    token_weights,
)
from burnish_services.training.bilevel_trainer import BilevelTrainer
from burnish_services.training.core import steps_per_epoch
from burnish_services.training.loss import Batch, sample_means
from burnish_services.training.pool import EMPTY, Pool, PooledResponse

_RECENT = "recent.json"
_WINDOW, _FEWEST = 64, 16  # questions that staleness is told by, and the fewest


class RefiningTrainer(BilevelTrainer):
    """Bilevel selection with a pool, which may be given anew between two steps."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.pool = EMPTY
        self.weighting = Weighting()
        self._recent: deque[Floats] = deque(maxlen=_WINDOW)  # the weights of each question's responses
        super().__init__(*given, **named)

    def use(self, pool: Pool, weighting: Weighting, *, is_new: bool) -> None:
        """Goes on with these responses; of new ones none was seen yet."""
        self.pool, self.weighting = pool, weighting
        if is_new:
            self._recent.clear()

    @property
    def steps_of_a_pass(self) -> int:
        """Optimiser steps of one pass over the data."""
        return steps_per_epoch(self._plan, len(self._data.samples))

    @property
    def share_in_effect(self) -> float | None:
        """How much of the pool still counts, in [0, 1], over the questions seen of late; None where they are too few to
        tell."""
        return effective_share(self._recent) if len(self._recent) >= _FEWEST else None

    def save_to(self, checkpoint: Path) -> None:
        """See SftTrainer."""
        super().save_to(checkpoint)
        recent = [weights.tolist() for weights in self._recent]
        (checkpoint / _RECENT).write_text(json.dumps(recent), encoding="utf-8")

    def restore_from(self, checkpoint: Path) -> None:
        """See SftTrainer."""
        super().restore_from(checkpoint)
        recent = json.loads((checkpoint / _RECENT).read_text(encoding="utf-8"))
        self._recent.extend(np.array(weights) for weights in recent)

    def _collate(self, indices: list[int]) -> Batch:
        """See SftTrainer; the batch is of the samples that are not in the pool."""
        plain = [index for index in indices if index not in self.pool.responses]
        asked = [index for index in indices if index in self.pool.responses]
        return {**super()._collate(plain), "questions": asked}

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """See BilevelTrainer; adds the gradients of the model's own responses."""
        part = super().training_step(model, inputs, num_items_in_batch)
        for index in inputs["questions"]:
            self._learn_from(self.pool.responses[index])
        return part

    def _learn_from(self, responses: Sequence[PooledResponse]) -> None:
        most = self._plan.per_device_batch_size
        pieces = [responses[at : at + most] for at in range(0, len(responses), most)]
        # Weights are of all responses to a question together. Where one forward pass may not have them all, they are
        # read first, and learnt from once the weights are known.
        at_once = self._losses(pieces[0]) if len(pieces) == 1 else None
        now: list[Floats] = []
        for piece in pieces:
            with torch.no_grad():
                losses, owners = at_once or self._losses(piece)
            told = losses.detach().double().cpu().numpy()
            now += [-told[(owners == place).cpu().numpy()] for place in range(len(piece))]
        generator = [response.generator for response in responses]
        weights = response_weights(now, generator, self.weighting)
        self._recent.append(weights)
        for number, piece in enumerate(pieces):
            part = slice(number * most, number * most + len(piece))
            losses, owners = at_once or self._losses(piece)
            self._descend(piece, losses, owners, weights[part], list(zip(now[part], generator[part], strict=True)))

    def _losses(self, responses: Sequence[PooledResponse]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each response token, shape (tokens,), its loss and the place of its response."""
        batch = self._prepare_inputs(self.collate([one.sample for one in responses]))
        wanted = self._share < 1 and torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted), self.compute_loss_context_manager():
            losses, owners = self.response_loss.nll(batch)
        return losses, owners

    def _descend(
        self,
        responses: Sequence[PooledResponse],
        losses: torch.Tensor,
        owners: torch.Tensor,
        weights: Floats,
        logprobs: Sequence[tuple[Floats, Floats]],
    ) -> None:
        """Adds the gradients of responses, each counted by its weight; `logprobs`: under the model, and when they were
        generated."""
        samples = [one.sample for one in responses]
        if self.weighting.variant == TOKEN:
            ratios = np.concatenate([token_weights(*pair) for pair in logprobs])
            losses = losses * torch.tensor(ratios, dtype=losses.dtype, device=losses.device)
        means = sample_means(losses, owners, len(samples))
        counted = torch.tensor(weights, dtype=torch.float32, device=losses.device)
        part = (1 - self._share) / len(self.step_samples) * (counted * means).sum()
        if part.requires_grad:
            self.accelerator.backward(part)
        self.note(part, losses, owners, samples)
