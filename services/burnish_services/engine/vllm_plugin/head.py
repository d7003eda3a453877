"""Log-probabilities from hidden states, a bounded number of logits at a time.

log p(t | h) = z_t − log Σ_v exp z_v with z = head(h); the whole of tokens × vocabulary never exists. Logits are reduced
in float32 whatever number format the head computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Logits = Callable[[torch.Tensor], torch.Tensor]
# float32 logits held at a time, in numbers: 64 MiB.
LOGITS_HELD = 1 << 24


def rows_at_a_time(vocab_size: int) -> int:
    """Hidden states whose logits are held together, >= 1."""
    return max(LOGITS_HELD // vocab_size, 1)


def score_tokens(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probability of each row's target: (rows, vocabulary) and (rows,) to (rows, 1) float32."""
    values = logits.float()
    return values.gather(1, targets[:, None]) - values.logsumexp(dim=1, keepdim=True)


def score_distribution(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """As `score_tokens`, then entropy H = −Σ p log p (nats) and margin p(1st) − p(2nd) of the rows: (rows, 3)."""
    values = logits.float()
    logprobs = values - values.logsumexp(dim=1, keepdim=True)
    probabilities = logprobs.exp()
    # 0 · log 0 is 0, where a head gives a token a logit of minus infinity.
    entropy = -(probabilities * logprobs.clamp(min=torch.finfo(torch.float32).min)).sum(dim=1, keepdim=True)
    top = probabilities.topk(2, dim=1).values
    return torch.cat([logprobs.gather(1, targets[:, None]), entropy, top[:, :1] - top[:, 1:]], dim=1)


def by_rows(
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logits_of: Logits,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    rows: int,
) -> torch.Tensor:
    """`reduce` over all rows, `rows` at a time."""
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([reduce(logits_of(part), wanted) for part, wanted in parts])


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One kernel instead of several passes over the logits, whatever the number of rows."""
    return torch.compile(function, dynamic=True)
