"""The arithmetic of scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from burnish_services.engine.chat import TokenizedSample, Turn
from burnish_services.scoring.losses import sample_loss

# Ten tokens; the assistant wrote 3, 4, 5 and 8, 9.
SAMPLE = TokenizedSample(list(range(100, 110)), (Turn(1, 3, 6), Turn(3, 8, 10)))


def test_a_loss_is_the_mean_over_response_tokens_only() -> None:
    logprobs = np.array([-1.0, -2.0, -3.0, -50.0, -60.0, -4.0, -5.0], dtype=np.float32)
    loss = sample_loss(SAMPLE, logprobs, first_scored=3)
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
        sample_loss(SAMPLE, np.zeros(6, dtype=np.float32), first_scored=3)


def test_certain_tokens_have_no_loss_and_no_negative_zero() -> None:
    loss = sample_loss(SAMPLE, np.zeros(7, dtype=np.float32), first_scored=3)
    assert math.copysign(1, loss.mean_nll) == 1
    assert loss.perplexity == 1.0


def test_a_perplexity_beyond_a_double_is_infinite() -> None:
    assert sample_loss(SAMPLE, np.full(7, -1000, dtype=np.float32), first_scored=3).perplexity == math.inf


def test_sums_keep_the_digits_that_float32_sums_lose() -> None:
    count = 200_000
    sample = TokenizedSample([0] * (count + 1), (Turn(1, 1, count + 1),))
    logprobs = np.full(count, -0.1, dtype=np.float32)
    assert sample_loss(sample, logprobs, 1).mean_nll == pytest.approx(float(np.float32(0.1)), rel=1e-9)
