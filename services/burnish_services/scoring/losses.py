"""The arithmetic of scores: from log-probabilities of response tokens to losses and what is made of them. Pure.

L(x, y; θ) = −(1/|R|) Σ_{j∈R} log p_θ(z_j | z_<j), R the response tokens: a mean per sample, not per batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.base import TokenScores
from burnish_services.engine.chat import TokenizedSample, Turn


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

    @property
    def mean_probability(self) -> float:
        """Arithmetic mean of the tokens' probabilities."""
        return _mean_probability(self.logprobs)

    @property
    def min_probability(self) -> float:
        """Of the least likely token."""
        return math.exp(float(self.logprobs.min()))


@dataclass(frozen=True, slots=True)
class UnconditionalLoss:
    """Responses without their prompts, compared over the same tokens; sums in nats."""

    sum_nll: float
    sum_nll_given_prompt: float
    num_tokens: int  # >= 0

    @property
    def mean_nll(self) -> float:
        """Without the prompt, nats per token; 0 where there is no token."""
        return self.sum_nll / max(self.num_tokens, 1)

    @property
    def ifd(self) -> float | None:
        """Instruction-following difficulty s(y|x) / s(y) of mean losses (arXiv 2308.12032, eq. 4); None where the loss
        without the prompt is 0."""
        return self.sum_nll_given_prompt / self.sum_nll if self.sum_nll > 0 else None

    @property
    def pmi(self) -> float | None:
        """(1/n) Σ [log p(y_t | x, y_<t) − log p(y_t | y_<t)], nats per token; None where there is no token."""
        return (self.sum_nll - self.sum_nll_given_prompt) / self.num_tokens if self.num_tokens else None


@dataclass(frozen=True, slots=True)
class SampleLoss:
    """The loss of one sample, nats; its turns add up to it. What was not asked for is None."""

    turns: tuple[TurnLoss, ...]
    num_sequence_tokens: int
    unconditional: UnconditionalLoss | None = None
    mean_entropy: float | None = None
    mean_margin: float | None = None
    mean_hidden: NDArray[np.float32] | None = None

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

    @property
    def mean_probability(self) -> float:
        """Arithmetic mean of the response tokens' probabilities."""
        return _mean_probability(np.concatenate([turn.logprobs for turn in self.turns]))

    @property
    def min_probability(self) -> float:
        """Of the least likely response token."""
        return min(turn.min_probability for turn in self.turns)


def sample_loss(
    sample: TokenizedSample, scores: TokenScores, first_scored: int, unconditional: UnconditionalLoss | None = None
) -> SampleLoss:
    """The loss of a sample whose tokens from `first_scored` on have the given scores.

    Raises ValueError where the numbers do not cover the sample, as that would be a loss over other tokens.
    """
    if len(scores.logprobs) != len(sample.ids) - first_scored:
        raise ValueError(f"{len(scores.logprobs)} log-probabilities for {len(sample.ids) - first_scored} tokens")
    return SampleLoss(
        turns=tuple(_turn_loss(turn, sample.ids, scores.logprobs, first_scored) for turn in sample.turns),
        num_sequence_tokens=len(sample.ids),
        unconditional=unconditional,
        mean_entropy=_response_mean(sample.turns, scores.entropies, first_scored),
        mean_margin=_response_mean(sample.turns, scores.margins, first_scored),
        mean_hidden=scores.mean_hidden,
    )


def unconditional_loss(
    sample: TokenizedSample, scores: TokenScores, first_scored: int, alone: Sequence[NDArray[np.float32]]
) -> UnconditionalLoss:
    """Compares the turns' scores in the conversation with those they have `alone`, which lack the first token of each
    turn where nothing stood before it."""
    given, without, count = 0.0, 0.0, 0
    for turn, own in zip(sample.turns, alone, strict=True):
        inside = _slice(turn, scores.logprobs, first_scored)
        count += len(own)
        without += _sum_nll(own)
        given += _sum_nll(inside[len(inside) - len(own) :])
    return UnconditionalLoss(without, given, count)


def _turn_loss(turn: Turn, ids: Sequence[int], logprobs: NDArray[np.float32], first_scored: int) -> TurnLoss:
    own = _slice(turn, logprobs, first_scored)
    return TurnLoss(
        message_index=turn.message_index,
        sum_nll=_sum_nll(own),
        token_ids=np.asarray(ids[turn.start : turn.end], dtype=np.int32),
        logprobs=np.asarray(own, dtype=np.float32),
    )


def _response_mean(turns: Sequence[Turn], values: NDArray[np.float32] | None, first_scored: int) -> float | None:
    if values is None:
        return None
    own = np.concatenate([_slice(turn, values, first_scored) for turn in turns])
    return float(np.mean(own, dtype=np.float64))


def _slice(turn: Turn, values: NDArray[np.float32], first_scored: int) -> NDArray[np.float32]:
    return values[turn.start - first_scored : turn.end - first_scored]


def _mean_probability(logprobs: NDArray[np.float32]) -> float:
    return float(np.mean(np.exp(logprobs, dtype=np.float64)))


def _sum_nll(logprobs: NDArray[np.float32]) -> float:
    # Summed in float64: float32 sums of long responses lose digits that thresholds μ + σ may turn on.
    return max(0.0, -float(np.sum(logprobs, dtype=np.float64)))
