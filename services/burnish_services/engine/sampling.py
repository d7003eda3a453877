"""Choosing the next token: penalty, temperature, top-k, top-p, and a draw that depends on the seed alone.

Pure functions on one row of logits, in the order that vLLM and transformers apply them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch

from burnish_services.engine.base import Sampling

_COLDEST = 1e-5  # below it the likeliest token, as in vLLM; logits over less would be infinite


def new_generator(seed: int | None) -> torch.Generator:
    """A generator for one sequence; without a seed, one that no one can repeat."""
    generator = torch.Generator()
    generator.manual_seed((secrets.randbits(63) if seed is None else seed) % (1 << 63))
    return generator


def choose_token(logits: torch.Tensor, seen: Sequence[int], sampling: Sampling, generator: torch.Generator) -> int:
    """The next token, given float32 logits of shape (vocabulary,) and all tokens so far."""
    if sampling.repetition_penalty != 1.0:
        index = torch.tensor(sorted(set(seen)))
        values = logits[index]
        penalty = sampling.repetition_penalty
        logits = logits.index_copy(0, index, torch.where(values < 0, values * penalty, values / penalty))
    if sampling.temperature < _COLDEST:
        return int(logits.argmax())
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1.0:
        logits = _keep_nucleus(logits, sampling.top_p)
    return int(torch.multinomial(logits.softmax(dim=0), 1, generator=generator))


def _keep_nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """Only the likeliest tokens, as few as hold `top_p` of the probability, at least one."""
    ordered, order = logits.softmax(dim=0).sort(descending=True, stable=True)
    before = ordered.cumsum(dim=0) - ordered
    return logits.index_fill(0, order[before >= top_p], -torch.inf)
