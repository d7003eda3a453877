"""The loss: negative log-likelihood of response tokens, with logits computed at their positions only.

Owns batches (padding or packing, labels) and the sums over them; not which tokens are response tokens
(`engine/chat.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from burnish_services.training.data import TrainingSample

IGNORED = -100  # label of tokens without a loss, as everywhere in Hugging Face
# Logits of more response tokens than fit into this are never there at once: they are made a part at a time, and made
# again in the backward pass. Below it, making them twice would only cost time.
MAX_LOGITS_BYTES = 1 << 28
Batch = dict[str, torch.Tensor]


def collate(samples: Sequence[TrainingSample], *, packing: bool = False) -> Batch:
    """`input_ids`, `labels` and `owners` of one shape, padded on the right: (samples, longest), or with `packing`
    (1, all tokens) with `position_ids` that begin anew with each sample. Labels are the tokens themselves at response
    tokens and IGNORED elsewhere; `owners` says which of the samples a token belongs to.

    No attention mask: attention is causal, so no real token sees the padding behind it; and transformers keeps packed
    samples apart by their positions.
    """
    lengths = [len(sample.tokens.ids) for sample in samples]
    shape = (1, sum(lengths)) if packing else (len(samples), max(lengths))
    ids, owners = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    start = 0
    for number, sample in enumerate(samples):
        row, first = (0, start) if packing else (number, 0)
        tokens = torch.tensor(sample.tokens.ids)
        ids[row, first : first + len(tokens)] = tokens
        owners[row, first : first + len(tokens)] = number
        for turn in sample.tokens.turns:
            labels[row, first + turn.start : first + turn.end] = tokens[turn.start : turn.end]
        start += len(tokens)
    batch = {"input_ids": ids, "labels": labels, "owners": owners}
    if packing:
        batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    return batch


class ResponseLoss:
    """Has a causal language model compute logits only where they are wanted, and what they say of the tokens there.

    With small models the head is a third of the work, and most of its output would be thrown away. The hidden states
    are picked out just before the head, so whatever a model does to its logits afterwards still happens.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._head: Any = model.get_output_embeddings()
        self._positions: torch.Tensor | None = None
        self._is_plain: bool | None = None  # whether logits are what the head makes of them; None: not known yet
        self._head.register_forward_pre_hook(self._pick)

    def nll(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood in nats, float32, of every response token of the batch in reading order, and the
        sample, by its place in the batch, that each belongs to."""
        # The token at t is predicted at t - 1.
        rows, columns = (batch["labels"][:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets, owners = batch["labels"][rows, columns + 1], batch["owners"][rows, columns + 1]
        positions = rows * batch["labels"].shape[1] + columns
        part = max(1, MAX_LOGITS_BYTES // (4 * self._head.weight.shape[0]))
        if len(targets) > part and self._plain(batch, positions):
            with self._without_head():
                hidden = self._forward(batch, positions)
            pairs = zip(hidden.split(part), targets.split(part), strict=True)
            return torch.cat([checkpoint(self._head_nll, *pair, use_reentrant=False) for pair in pairs]), owners
        return _nll(self._forward(batch, positions), targets), owners

    def _forward(self, batch: Batch, positions: torch.Tensor) -> torch.Tensor:
        """What the model makes at these positions: (positions, vocabulary), or hidden states without its head."""
        inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
        with self._at(positions):
            made: torch.Tensor = self.model(**inputs, use_cache=False).logits
        if made.shape[:2] != (1, len(positions)):
            raise RuntimeError(f"{type(self.model).__name__} does not make its logits by its output embeddings alone")
        return made[0]

    def _head_nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _nll(self._head(hidden), targets)

    @torch.no_grad()
    def _plain(self, batch: Batch, positions: torch.Tensor) -> bool:
        """True where the model's logits are its head's output as it is, neither scaled nor capped; found out once."""
        if self._is_plain is None:
            training = self.model.training
            self.model.eval()  # so that both see the same
            logits = self._forward(batch, positions[:2])
            with self._without_head():
                hidden = self._forward(batch, positions[:2])
            self._is_plain = hidden.shape[1] == self._head.weight.shape[1] and torch.equal(self._head(hidden), logits)
            self.model.train(training)
        return self._is_plain

    @contextmanager
    def _without_head(self) -> Iterator[None]:
        """The model gives the hidden states that were picked instead of logits."""
        self._head.forward = lambda hidden: hidden
        try:
            yield
        finally:
            del self._head.forward

    @contextmanager
    def _at(self, positions: torch.Tensor) -> Iterator[None]:
        self._positions = positions
        try:
            yield
        finally:
            self._positions = None

    def _pick(self, module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._positions is None:
            return None
        hidden, *others = arguments
        return (hidden.flatten(0, 1).index_select(0, self._positions)[None], *others)


def _nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


def sample_means(losses: torch.Tensor, owners: torch.Tensor, num_samples: int) -> torch.Tensor:
    """(num_samples,): the mean loss of each sample's tokens, from what `ResponseLoss.nll` returns."""
    sums = torch.zeros(num_samples, device=losses.device).index_add(0, owners, losses)
    return sums / torch.bincount(owners, minlength=num_samples)


@torch.no_grad()
def mean_nll(loss: ResponseLoss, samples: Sequence[TrainingSample], batch_size: int, device: torch.device) -> float:
    """Mean over all response tokens of the samples, in nats, without dropout."""
    loss.model.eval()
    ordered = sorted(samples, key=lambda sample: -len(sample.tokens.ids))
    total, count = 0.0, 0
    for start in range(0, len(ordered), batch_size):
        batch = {key: value.to(device) for key, value in collate(ordered[start : start + batch_size]).items()}
        losses, _ = loss.nll(batch)
        total += losses.double().sum().item()
        count += len(losses)
    return total / count
