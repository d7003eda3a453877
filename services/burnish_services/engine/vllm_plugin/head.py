"""Log-probabilities from hidden states, without ever holding tokens × vocabulary.

    −log p(t | h) = log(1 + Σ_{v ≠ t} exp(z_v − z_t)),   z = W h (+ b), scaled and soft-capped as the model does

The sum is taken over blocks of the vocabulary, so that few logits are held; the target's own logit, which is known
beforehand and computed in float32, takes the place of a running maximum, and no digit of a nearly certain token is
lost. Measured in turns on two cores, 1,600 rows × 49,152 tokens in bfloat16: the product in blocks 40 ms, written out
whole 90 to 110; this 82, its reduction compiled to one pass 72 to 79. A running maximum costs a quarter more; torch's
log-sum-exp over whole rows three times as much. Pure torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch

Logits = Callable[[torch.Tensor], torch.Tensor]
# Logits held at a time: on a CPU 16 MiB of float32 (four times as many take 143 ms instead of 82, half as many 97); on
# a GPU 256 MiB, so that kernels are few, which is not measured. Twice as many where they are reduced as they are,
# without a copy in float32.
LOGITS_HELD = {"cpu": 1 << 22, "cuda": 1 << 26}
MOST_ROWS = 2048  # that go through the head together
# Vocabulary blocks are multiples of this. oneDNN's bfloat16 product takes 72 ms with 1,152 or 1,216 columns at a time,
# 40 to 47 with multiples of 256 (1,600 rows).
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Head:
    """An output head: `weight` (vocabulary, hidden size), `bias` (vocabulary,) or None. `compiled`: reduce a block of
    logits by one kernel that torch makes, for which a CPU needs a C++ compiler."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None
    compiled: bool = False

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Products, float32, made the model's logits in place."""
        if self.soft_cap is not None:
            logits.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
        return logits if self.scale == 1.0 else logits.mul_(self.scale)

    def targets(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Logits of the targets alone, computed in float32: (rows, 1)."""
        products = (hidden.float() * self.weight[targets].float()).sum(dim=1, keepdim=True)
        return self.finish(products if self.bias is None else products + self.bias[targets, None].float())

    def products(self, hidden: torch.Tensor, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """W h + b of the rows for one block of `size` tokens of the vocabulary after the other, with the block's first
        token. All lie in the same memory, which the caller may write to: a block holds until the next is asked for."""
        memory = hidden.new_empty(len(hidden) * size)
        for first in range(0, len(self.weight), size):
            weight = self.weight[first : first + size]
            product = memory[: len(hidden) * len(weight)].view(len(hidden), len(weight))
            if self.bias is None:
                torch.mm(hidden, weight.t(), out=product)
            else:
                torch.addmm(self.bias[first : first + size], hidden, weight.t(), out=product)
            yield first, product

    def blocks(self, hidden: torch.Tensor, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        """As `products`, but logits, float32."""
        memory = torch.empty(len(hidden) * size, dtype=torch.float32, device=hidden.device)
        for first, product in self.products(hidden, size):
            logits = product if product.dtype == torch.float32 else memory[: product.numel()].view(product.shape)
            yield first, self.finish(logits.copy_(product))


def score(head: Head, hidden: torch.Tensor, targets: torch.Tensor, *, distribution: bool = False) -> torch.Tensor:
    """Log-probability of each row's target, nats: (rows, hidden size) and (rows,) to (rows, 1) float32. With
    `distribution` two columns more: entropy H = −Σ p log p (nats) and margin p(1st) − p(2nd)."""
    one = _score_distribution if distribution else _score_targets
    parts = zip(hidden.split(MOST_ROWS), targets.split(MOST_ROWS), strict=True)
    return torch.cat([one(head, rows, wanted) for rows, wanted in parts])


def _score_targets(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    # In the order of their targets, so that the rows whose targets are in a block are a slice of it.
    wanted, order = targets.sort()
    rows = hidden[order]
    exact = head.targets(rows, wanted)
    others = torch.zeros_like(exact)
    # A capped logit of −inf is finite; one row alone would be compiled for itself.
    fused = head.compiled and head.soft_cap is None and len(rows) > 1
    size = _block_size(rows, 2 * _held(rows) if fused else _held(rows))
    blocks = head.products(rows, size) if fused else head.blocks(rows, size)
    firsts = torch.arange(0, len(head.weight), size, device=wanted.device)
    begins = torch.searchsorted(wanted, firsts).tolist()
    for (first, logits), begin, end in zip(blocks, begins, [*begins[1:], len(rows)], strict=True):
        if begin < end:
            logits[begin:end].scatter_(1, wanted[begin:end, None] - first, -torch.inf)
        if fused:
            others += _compiled_sum()(logits, exact, head.scale)
        else:
            others += logits.sub_(exact).exp_().sum(dim=1, keepdim=True)
    logprobs = torch.empty_like(exact)
    logprobs[order] = -others.log1p()
    # A token of less than e^-88 is rare enough to be computed again, with the maximum.
    beyond = ~logprobs.isfinite().squeeze(1)
    if beyond.any():
        logprobs[beyond] = _score_distribution(head, hidden[beyond], targets[beyond])[:, :1]
    return logprobs


def _sum_exp(products: torch.Tensor, exact: torch.Tensor, scale: float) -> torch.Tensor:
    return (products.float() * scale - exact).exp().sum(dim=1, keepdim=True)


@cache
def _compiled_sum() -> Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]:
    return torch.compile(_sum_exp, dynamic=True)


def _score_distribution(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """H = log S + m − (Σ z exp(z − m)) / S with m the maximum and S = Σ exp(z − m)."""
    most = torch.full((len(hidden), 1), -torch.inf, device=hidden.device)
    total, weighted, chosen = torch.zeros_like(most), torch.zeros_like(most), most
    top = torch.full((len(hidden), 2), -torch.inf, device=hidden.device)
    for first, logits in head.blocks(hidden, _block_size(hidden, _held(hidden))):
        at, inside = _local(targets - first, logits)
        chosen = torch.where(inside, logits.gather(1, at), chosen)
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


def _local(targets: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets counted from a block's first token, as columns of the block, and whether they are in it."""
    last = logits.shape[1] - 1
    return targets.clamp(0, last)[:, None], ((targets >= 0) & (targets <= last))[:, None]


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


def _block_size(rows: torch.Tensor, held: int) -> int:
    """Tokens of the vocabulary, a multiple of `_BLOCK`, such that `held` logits of these rows may be held."""
    return max(held // max(len(rows), 1) // _BLOCK, 1) * _BLOCK


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
