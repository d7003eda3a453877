"""Weights of a model's own responses in training: what makes online self-refinement (BMO) honest about where they come
from. Pure.

Of the published method (arXiv 2511.21056) only the abstract could be read: closed-form importance-ratio weights that
adapt to regenerated responses. The formula here is our derivation. Each question has K responses y_k drawn from the
weights π_gen; the smooth minimum of their losses under π_θ, with each drawn response counted as 1 / π_gen, has the
gradient Σ w_k ∇ℓ_k with

    r_k = π_θ(y_k | x) / π_gen(y_k | x),    w_k = r_k^(1/τ) / Σ_j r_j^(1/τ).

A response is long, so that r_k would be 0 or huge: its logarithm is divided by length^κ and clipped. Right after
generation w_k = 1/K, but for what rounding to the base model's format did to the generator's weights: w protect against
responses that the model has moved away from since, and are no strong signal of which response is better.

All log-probabilities are natural and per token, of the same tokens under both weights, before any sampling parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SELF_NORMALIZED, RAW, SOFTMIN, UNIFORM, TOKEN = VARIANTS = ("self_normalized", "raw", "softmin", "uniform", "token")
MAX_RATIO = 10.0
_MIN_GENERATOR_LOGPROB = -30.0


@dataclass(frozen=True, slots=True)
class Weighting:
    """How responses are weighted.

    `self_normalized`: w above, the default. `raw`: min(r_k, 10) / K, whose expected gradient is 0 where nothing is
    clipped. `softmin`: as the first with π_gen left out. `uniform`: 1/K. `token`: as the author's published trainer
    does, each token by its own ratio, stopped at 10 (`token_weights`), and 1/K for each response.
    `length_power` is κ in [0, 1], 0 the exact ratio; `temperature` is τ > 0.
    """

    variant: str = SELF_NORMALIZED
    length_power: float = 1.0
    temperature: float = 1.0


def log_ratio(now: Floats, generator: Floats, length_power: float, *, floor: bool = True) -> float:
    """log r of one response divided by its length^κ, at most log 10 and, with `floor`, at least -log 10. The arrays
    have an entry for each token."""
    ratio = float((now - generator).sum()) / len(now) ** length_power
    limit = float(np.log(MAX_RATIO))
    return min(limit, max(-limit, ratio) if floor else ratio)


def response_weights(now: Sequence[Floats], generator: Sequence[Floats], weighting: Weighting) -> Floats:
    """(K,): the weights of a question's responses, by their tokens' log-probabilities now and when they were generated.

    They sum to 1, but for `raw`, and for `self_normalized` with K = 1, where normalising would say nothing: there it is
    the ratio itself, at most 10.
    """
    count = len(now)
    if weighting.variant in (UNIFORM, TOKEN):
        return np.full(count, 1.0 / count)
    if weighting.variant == SOFTMIN:
        nll = [-float(logprobs.sum()) / len(logprobs) ** weighting.length_power for logprobs in now]
        return _softmax(-np.array(nll) / weighting.temperature)
    pairs = zip(now, generator, strict=True)
    floor = weighting.variant != RAW  # an estimate that is floored is none
    ratios = np.array([log_ratio(*pair, weighting.length_power, floor=floor) for pair in pairs])
    if weighting.variant == RAW or count == 1:
        return np.exp(ratios) / count
    return _softmax(ratios / weighting.temperature)


def token_weights(now: Floats, generator: Floats) -> Floats:
    """The weight of each token of a response in variant `token`: its own ratio, at most 10."""
    return np.minimum(np.exp(now - np.maximum(generator, _MIN_GENERATOR_LOGPROB)), MAX_RATIO)


def effective_share(weights: Collection[Floats]) -> float:
    """How much of the pool still counts, in [0, 1], from the weights of each question's responses: the mean over the
    questions of (Σw)² / (K Σw²), which of those that have one response is taken over all of them together. 1: all count
    alike; 0: none counts."""
    lone = [one for one in weights if len(one) == 1]
    shares = [_kish(one) for one in weights if len(one) > 1]
    shares += [_kish(np.concatenate(lone))] * len(lone) if lone else []
    return float(np.mean(shares))


def _kish(weights: Floats) -> float:
    """0 where weights are so small that their squares are 0: then nothing counts any more."""
    squares = (weights**2).sum()
    return float(weights.sum() ** 2 / (len(weights) * squares)) if squares > 0 else 0.0


def _softmax(values: Floats) -> Floats:
    raised = np.exp(values - values.max())
    normalized: Floats = raised / raised.sum()
    return normalized
