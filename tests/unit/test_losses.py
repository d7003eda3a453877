"""The arithmetic of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from burnish_services.engine.base import TokenScores
from burnish_services.engine.chat import TokenizedSample, Turn
from burnish_services.scoring.losses import SampleLoss, UnconditionalLoss, sample_loss, unconditional_loss

# Ten tokens; the assistant wrote 3, 4, 5 and 8, 9.
SAMPLE = TokenizedSample(list(range(100, 110)), (Turn(1, 3, 6), Turn(3, 8, 10)))


def scores(logprobs: ArrayLike) -> TokenScores:
    return TokenScores(np.asarray(logprobs, dtype=np.float32))


def loss_of(logprobs: ArrayLike) -> SampleLoss:
    return sample_loss(SAMPLE, scores(logprobs), first_scored=3)


def test_a_loss_is_the_mean_over_response_tokens_only() -> None:
    loss = loss_of([-1.0, -2.0, -3.0, -50.0, -60.0, -4.0, -5.0])
    assert loss.sum_nll == 15.0
    assert loss.num_tokens == 5
    assert loss.mean_nll == 3.0
    assert loss.perplexity == pytest.approx(math.exp(3.0))
    assert loss.num_sequence_tokens == 10
    assert [(turn.message_index, turn.sum_nll, turn.num_tokens) for turn in loss.turns] == [(1, 6.0, 3), (3, 9.0, 2)]
    assert loss.turns[0].token_ids.tolist() == [103, 104, 105]
    assert loss.turns[1].logprobs.tolist() == [-4.0, -5.0]


def test_numbers_for_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="6 log-probabilities for 7 tokens"):
        loss_of(np.zeros(6))


def test_certain_tokens_have_no_loss_and_no_negative_zero() -> None:
    loss = loss_of(np.zeros(7))
    assert math.copysign(1, loss.mean_nll) == 1
    assert loss.perplexity == 1.0


def test_a_perplexity_beyond_a_double_is_infinite() -> None:
    assert loss_of(np.full(7, -1000)).perplexity == math.inf


def test_sums_keep_the_digits_that_float32_sums_lose() -> None:
    count = 200_000
    sample = TokenizedSample([0] * (count + 1), (Turn(1, 1, count + 1),))
    logprobs = np.full(count, -0.1, dtype=np.float32)
    assert sample_loss(sample, TokenScores(logprobs), 1).mean_nll == pytest.approx(float(np.float32(0.1)), rel=1e-9)


def test_probabilities_are_those_of_response_tokens() -> None:
    loss = loss_of(np.log([0.5, 0.25, 1.0, 1e-9, 1e-9, 0.125, 0.125]))
    assert loss.mean_probability == pytest.approx((0.5 + 0.25 + 1.0 + 0.125 + 0.125) / 5)
    assert loss.min_probability == pytest.approx(0.125)


def test_entropy_and_margin_are_means_over_response_tokens() -> None:
    values = np.array([1, 2, 3, 99, 99, 4, 5], dtype=np.float32)
    loss = sample_loss(SAMPLE, TokenScores(-values, values, values / 10), first_scored=3)
    assert loss.mean_entropy == pytest.approx(3.0)
    assert loss.mean_margin == pytest.approx(0.3)
    assert (loss_of(-values).mean_entropy, loss_of(-values).mean_margin) == (None, None)


def test_ifd_and_pmi_compare_the_same_tokens_with_and_without_the_prompt() -> None:
    inside = scores([-1.0, -1.0, -2.0, -9.0, -9.0, -3.0, -1.0])
    # With a BOS before them all five tokens are predicted; turns are those of SAMPLE: three tokens, then two.
    begun = unconditional_loss(SAMPLE, inside, 3, [np.float32([-2, -2, -2]), np.float32([-6, -4])])
    assert (begun.num_tokens, begun.sum_nll, begun.sum_nll_given_prompt) == (5, 16.0, 8.0)
    assert begun.mean_nll == 3.2
    assert begun.ifd == 0.5
    assert begun.pmi == pytest.approx(1.6)
    # Without one, the first token of each turn is predicted from nothing and counts on neither side.
    bare = unconditional_loss(SAMPLE, inside, 3, [np.float32([-2, -2]), np.float32([-4])])
    assert (bare.num_tokens, bare.sum_nll, bare.sum_nll_given_prompt) == (3, 8.0, 4.0)
    assert bare.ifd == 0.5


def test_nothing_to_compare_is_none_and_no_number() -> None:
    nothing = UnconditionalLoss(0.0, 0.0, 0)
    assert (nothing.ifd, nothing.pmi, nothing.mean_nll) == (None, None, 0.0)
    certain = UnconditionalLoss(0.0, 0.5, 2)
    assert (certain.ifd, certain.pmi) == (None, -0.25)
