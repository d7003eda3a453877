"""Log-probabilities from hidden states, without ever holding tokens × vocabulary.

    log p(t | h) = z_t − log Σ_v exp z_v,   z = W h (+ b), scaled and soft-capped as the model does

The sum is taken over blocks of the vocabulary with a running maximum (online log-sum-exp), so that each block of logits
is reduced while it is in the cache; its cost is that of the matrix product. Measured on two cores, 2,048 rows × 49,152
tokens in bfloat16: product alone 104–125 ms, this 104–119 ms, torch's log-sum-exp over whole rows 275–445 ms, the same
compiled 132–208 ms. Reduced in float32 whatever number format the head computes in. Pure torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import linear

Logits = Callable[[torch.Tensor], torch.Tensor]
# Logits held at a time: 8 MiB of float32, so that they stay in a core's cache, or on a GPU in few kernels.
LOGITS_HELD = {"cpu": 1 << 21, "cuda": 1 << 26}
_MOST_ROWS = 2048
_BLOCK = 64  # vocabulary blocks are multiples of this


@dataclass(frozen=True, slots=True)
class Head:
    """An output head: `weight` (vocabulary, hidden size), `bias` (vocabulary,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Products as the model's logits, float32."""
        values = logits.float()
        if self.soft_cap is not None:
            values = torch.tanh(values / self.soft_cap) * self.soft_cap
        return values if self.scale == 1.0 else values * self.scale

    def targets(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits of the targets alone, computed in float32: (rows, 1)."""
        products = (hidden.float() * self.weight[targets].float()).sum(dim=1, keepdim=True)
        return self.finish(products if self.bias is None else products + self.bias[targets, None].float())

    def blocks(self, hidden: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """Logits of the rows for one block of the vocabulary after the other, with the block's first token."""
        size = max(_held(hidden) // max(len(hidden), 1) // _BLOCK, 1) * _BLOCK
        for first in range(0, len(self.weight), size):
            bias = None if self.bias is None else self.bias[first : first + size]
            yield first, self.finish(linear(hidden, self.weight[first : first + size], bias))


def score(head: Head, hidden: torch.Tensor, targets: torch.Tensor, *, distribution: bool = False) -> torch.Tensor:
    """Log-probability of each row's target, nats: (rows, hidden size) and (rows,) to (rows, 1) float32. With
    `distribution` two columns more: entropy H = −Σ p log p (nats) and margin p(1st) − p(2nd)."""
    one = _score_distribution if distribution else _score_targets
    parts = zip(hidden.split(_MOST_ROWS), targets.split(_MOST_ROWS), strict=True)
    return torch.cat([one(head, rows, wanted) for rows, wanted in parts])


def _score_targets(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    most, total, chosen = _nothing(hidden)
    for first, logits in head.blocks(hidden):
        chosen = _choose(chosen, logits, targets - first)
        peak = torch.maximum(most, logits.amax(dim=1, keepdim=True))
        total = total * (most - peak).exp() + logits.sub_(peak).exp_().sum(dim=1, keepdim=True)
        most = peak
    return _logprobs(head, hidden, targets, chosen, most, total)


def _score_distribution(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """H = log S + m − (Σ z exp(z − m)) / S with m the maximum and S = Σ exp(z − m)."""
    most, total, chosen = _nothing(hidden)
    weighted = torch.zeros_like(total)
    top = torch.full((len(hidden), 2), -torch.inf, device=hidden.device)
    for first, logits in head.blocks(hidden):
        chosen = _choose(chosen, logits, targets - first)
        best = logits.topk(min(2, logits.shape[1]), dim=1).values
        top = torch.cat([top, best], dim=1).topk(2, dim=1).values
        peak = top[:, :1]
        shrink, shares = (most - peak).exp(), (logits - peak).exp()
        total = total * shrink + shares.sum(dim=1, keepdim=True)
        # 0 · −inf is 0 here: a head may rule tokens out.
        weighted = weighted * shrink + torch.nan_to_num(shares * logits, nan=0.0).sum(dim=1, keepdim=True)
        most = peak
    entropy = total.log() + most - weighted / total
    margin = (1.0 - (top[:, 1:] - top[:, :1]).exp()) / total
    logprobs = _logprobs(head, hidden, targets, chosen, most, total)
    return torch.cat([logprobs, entropy.clamp(min=0.0), margin], dim=1)


def _nothing(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maximum, sum and targets' logits before any block."""
    least = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
    return least, torch.zeros_like(least), least


def _logprobs(
    head: Head,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    chosen: torch.Tensor,
    most: torch.Tensor,
    total: torch.Tensor,
) -> torch.Tensor:
    """z − m − log S, with the target's own z computed in float32 and in S, too, put in the place of the rounded one:
    bfloat16 rounds logits of the size of 20 by up to 0.06. Else a nearly certain token could have more than all of the
    probability, or each token would carry two rounding errors instead of a fraction of one."""
    exact = head.targets(hidden, targets)
    others = (total - (chosen - most).exp()).clamp(min=0.0)
    return (exact - most - (others + (exact - most).exp()).log()).clamp(max=0.0)


def _choose(chosen: torch.Tensor, logits: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """The targets' logits, of those that are in this block taken from it."""
    inside = (local >= 0) & (local < logits.shape[1])
    found = logits.gather(1, local.clamp(0, logits.shape[1] - 1)[:, None])
    return torch.where(inside[:, None], found, chosen)


def score_by_logits(
    logits_of: Logits, vocab_size: int, hidden: torch.Tensor, targets: torch.Tensor, *, distribution: bool = False
) -> torch.Tensor:
    """As `score`, for a head that can only be asked for all logits of a row: a few rows at a time."""
    rows = rows_held(hidden, vocab_size)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([_reduce(logits_of(part).float(), wanted, distribution) for part, wanted in parts])


def rows_held(hidden: torch.Tensor, vocab_size: int) -> int:
    """Rows whose logits over the whole vocabulary may be held, >= 1."""
    return max(_held(hidden) // vocab_size, 1)


def _held(tensor: torch.Tensor) -> int:
    return LOGITS_HELD.get(tensor.device.type, LOGITS_HELD["cuda"])


def _reduce(logits: torch.Tensor, targets: torch.Tensor, distribution: bool) -> torch.Tensor:
    logprobs = logits - logits.logsumexp(dim=1, keepdim=True)
    chosen = logprobs.gather(1, targets[:, None])
    if not distribution:
        return chosen
    probabilities = logprobs.exp()
    first, second = probabilities.topk(2, dim=1).values.split(1, dim=1)
    return torch.cat([chosen, torch.special.entr(probabilities).sum(dim=1, keepdim=True), first - second], dim=1)
