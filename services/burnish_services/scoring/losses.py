"""The arithmetic of scores: from log-probabilities of response tokens to means, sums and perplexity. Pure.

L(x, y; θ) = −(1/|R|) Σ_{j∈R} log p_θ(z_j | z_<j), R the response tokens: a mean per sample, not per batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.chat import TokenizedSample


@dataclass(frozen=True, slots=True)
class TurnLoss:
    """The loss of one assistant turn, nats."""

    message_index: int
    sum_nll: float
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]

    @property
    def num_tokens(self) -> int:
        """Response tokens of the turn, >= 1."""
        return len(self.logprobs)

    @property
    def mean_nll(self) -> float:
        """Nats per token."""
        return self.sum_nll / self.num_tokens


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """The loss of one sample, nats; its turns add up to it."""

    turns: tuple[TurnLoss, ...]
    num_sequence_tokens: int

    @property
    def sum_nll(self) -> float:
        """Over all response tokens."""
        return math.fsum(turn.sum_nll for turn in self.turns)

    @property
    def num_tokens(self) -> int:
        """Response tokens, >= 1."""
        return sum(turn.num_tokens for turn in self.turns)

    @property
    def mean_nll(self) -> float:
        """Nats per response token: Middo's L."""
        return self.sum_nll / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(mean_nll); infinite where that is beyond a double."""
        try:
            return math.exp(self.mean_nll)
        except OverflowError:
            return math.inf


def sample_loss(sample: TokenizedSample, logprobs: NDArray[np.float32], first_scored: int) -> SampleLoss:
    """The loss of a sample whose tokens from `first_scored` on have the given log-probabilities.

    Raises ValueError where the numbers do not cover the sample, as that would be a loss over other tokens.
    """
    if len(logprobs) != len(sample.ids) - first_scored:
        raise ValueError(f"{len(logprobs)} log-probabilities for {len(sample.ids) - first_scored} tokens")
    turns = tuple(
        _turn_loss(turn.message_index, sample.ids[turn.start : turn.end], logprobs[turn.start - first_scored :])
        for turn in sample.turns
    )
    return SampleLoss(turns=turns, num_sequence_tokens=len(sample.ids))


def _turn_loss(message_index: int, ids: Sequence[int], logprobs: NDArray[np.float32]) -> TurnLoss:
    own = logprobs[: len(ids)]
    # Summed in float64: float32 sums of long responses lose digits that thresholds μ + σ may turn on.
    total = -float(np.sum(own, dtype=np.float64))
    return TurnLoss(
        message_index=message_index,
        sum_nll=max(0.0, total),
        token_ids=np.asarray(ids, dtype=np.int32),
        logprobs=np.asarray(own, dtype=np.float32),
    )
