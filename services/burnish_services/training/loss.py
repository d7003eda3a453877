"""The loss: negative log-likelihood of response tokens, with logits computed at their positions only.

Owns batches (padding or packing, what is predicted where) and the sums over them; not which tokens are response tokens
(`engine/chat.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from burnish_services.training.attention import packed_arguments
from burnish_services.training.data import TrainingSample

# Logits of more response tokens than fit into this are never there at once: they are made a part at a time, and made
# again in the backward pass. Below it, making them twice would only cost time. A GPU has the room for larger parts, and
# each part adds to the gradient of the whole head.
MAX_LOGITS_BYTES = 1 << 28
MAX_LOGITS_BYTES_GPU = 1 << 30
PASS_TOKENS_GPU = 16_384  # that a pass which only measures has there at least
Batch = dict[str, Any]


def collate(samples: Sequence[TrainingSample], *, packing: bool = False) -> Batch:
    """`input_ids`, padded on the right: (samples, longest), or with `packing` (1, all tokens), with `position_ids` that
    begin anew with each sample, `starts` of the samples and the end of the last, int32, and `longest`, the tokens of
    the longest, an int. And, (response tokens,) in reading order: `targets`, the tokens themselves; `positions`, where
    in the flattened `input_ids` each is predicted; `owners`, which of the samples it belongs to.

    No attention mask: attention is causal, so no real token sees the padding behind it; and packed samples are kept
    apart by `attention.py` or, from their positions, by transformers.
    """
    lengths = [len(sample.tokens.ids) for sample in samples]
    ids = torch.zeros((1, sum(lengths)) if packing else (len(samples), max(lengths)), dtype=torch.long)
    flat, starts = ids.view(-1), [0]
    positions, targets, owners = [], [], []
    for number, sample in enumerate(samples):
        start = starts[-1] if packing else number * ids.shape[1]
        tokens = torch.tensor(sample.tokens.ids)
        flat[start : start + len(tokens)] = tokens
        for turn in sample.tokens.turns:
            begin = max(turn.start, 1)  # nothing predicts a sample's first token
            # The token at t is predicted at t - 1.
            positions.append(torch.arange(start + begin - 1, start + turn.end - 1))
            targets.append(tokens[begin : turn.end])
            owners.append(torch.full((turn.end - begin,), number))
        starts.append(starts[-1] + len(tokens))
    batch: Batch = {"input_ids": ids}
    batch |= {"positions": torch.cat(positions), "targets": torch.cat(targets), "owners": torch.cat(owners)}
    if packing:
        batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
        batch |= {"starts": torch.tensor(starts, dtype=torch.int32), "longest": max(lengths)}
    return batch


def without_targets(batch: Batch) -> Batch:
    """The same tokens, none of which is learnt."""
    return {**batch, **{name: batch[name][:0] for name in ("positions", "targets", "owners")}}


class ResponseLoss:
    """Has a causal language model compute logits only where they are wanted, and what they say of the tokens there.

    With small models the head is a third of the work, and most of its output would be thrown away. The hidden states
    are picked out just before the head, so whatever a model does to its logits afterwards still happens.
    """

    def __init__(self, model: Any, *, in_parts: bool = True) -> None:
        """`in_parts`: logits that take much memory are made a part at a time. Not where several processes share the
        model's weights: each would call it as often as its own samples need, and wait for the others' calls."""
        self.model = model
        self._in_parts = in_parts
        self._head: Any = model.get_output_embeddings()
        self._positions: torch.Tensor | None = None
        self._is_plain: bool | None = None  # whether logits are what the head makes of them; None: not known yet
        self._head.register_forward_pre_hook(self._pick)

    @property
    def makes_parts(self) -> bool:
        """Whether large logits are made a part at a time, as far as is known."""
        return self._in_parts and self._is_plain is not False

    def nll(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Negative log-likelihood in nats, float32, of every response token of the batch in reading order, and the
        sample, by its place in the batch, that each belongs to."""
        positions, targets, owners = batch["positions"], batch["targets"], batch["owners"]
        most = MAX_LOGITS_BYTES_GPU if targets.is_cuda else MAX_LOGITS_BYTES
        part = max(1, most // (4 * self._head.weight.shape[0]))
        if self._in_parts and len(targets) > part and self._plain(batch, positions):
            with self._without_head():
                hidden = self._forward(batch, positions)
            pairs = zip(hidden.split(part), targets.split(part), strict=True)
            return torch.cat([checkpoint(self._head_nll, *pair, use_reentrant=False) for pair in pairs]), owners
        return _nll(self._forward(batch, positions), targets), owners

    def _forward(self, batch: Batch, positions: torch.Tensor) -> torch.Tensor:
        """What the model makes at these positions: (positions, vocabulary), or hidden states without its head."""
        inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
        packed = packed_arguments(self.model.config, batch)
        with self._at(positions):
            made: torch.Tensor = self.model(**inputs, **packed, use_cache=False).logits
        if made.shape[:2] != (1, len(positions)):
            raise RuntimeError(f"{type(self.model).__name__} does not make its logits by its output embeddings alone")
        return made.squeeze(0)  # unlike [0] nothing that the gradient is copied for

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
            self._is_plain = hidden.shape[1] == self._head.weight.shape[1] and torch.equal(
                self._head(hidden).to(logits.dtype), logits
            )
            self.model.train(training)
            # Autocast keeps the weights that it rounded, here without a way back for gradients.
            torch.clear_autocast_cache()
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
    # As `cross_entropy` of float32 logits, which are not written first where they come in bfloat16.
    return F.nll_loss(F.log_softmax(logits, dim=-1, dtype=torch.float32), targets, reduction="none")


def sample_means(losses: torch.Tensor, owners: torch.Tensor, num_samples: int) -> torch.Tensor:
    """(num_samples,): the mean loss of each sample's tokens, from what `ResponseLoss.nll` returns."""
    sums = torch.zeros(num_samples, device=losses.device).index_add(0, owners, losses)
    return sums / torch.bincount(owners, minlength=num_samples)


def passes(samples: Sequence[TrainingSample], batch_size: int, pass_tokens: int) -> Iterator[Sequence[TrainingSample]]:
    """The samples, longest first, `batch_size` at a time, or more where that many have fewer than `pass_tokens`, padded
    to the longest."""
    ordered = sorted(samples, key=lambda sample: -len(sample.tokens.ids))
    start = 0
    while start < len(ordered):
        size = max(batch_size, pass_tokens // len(ordered[start].tokens.ids))
        yield ordered[start : start + size]
        start += size


@torch.no_grad()
def mean_nll(loss: ResponseLoss, samples: Sequence[TrainingSample], batch_size: int, device: torch.device) -> float:
    """Mean over all response tokens of the samples, in nats, without dropout."""
    loss.model.eval()
    total, count = 0.0, 0
    pass_tokens = PASS_TOKENS_GPU if device.type == "cuda" and loss.makes_parts else 0
    for part in passes(samples, batch_size, pass_tokens):
        losses, _ = loss.nll({key: value.to(device) for key, value in collate(part).items()})
        total += losses.double().sum().item()
        count += len(losses)
    return total / count
