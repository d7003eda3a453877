"""Weights of a model's own responses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_services.training.bilevel.importance import (
    MAX_RATIO,
    RAW,
    SELF_NORMALIZED,
    SOFTMIN,
    TOKEN,
    UNIFORM,
    VARIANTS,
    Weighting,
    effective_share,
    log_ratio,
    response_weights,
    token_weights,
)

LOGPROBS = st.lists(st.floats(-20, 0), min_size=1, max_size=12).map(np.array)
RESPONSES = st.lists(LOGPROBS, min_size=2, max_size=6)


@given(now=RESPONSES, shift=st.floats(-3, 3))
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != RAW])
def test_weights_of_a_question_sum_to_1(variant: str, now: list[np.ndarray], shift: float) -> None:
    generator = [one + shift * (number + 1) for number, one in enumerate(now)]
    weights = response_weights(now, generator, Weighting(variant))
    assert weights.sum() == pytest.approx(1.0)
    assert (weights > 0).all()


@given(now=RESPONSES)
@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != SOFTMIN])
def test_right_after_generation_all_responses_count_alike(variant: str, now: list[np.ndarray]) -> None:
    weights = response_weights(now, now, Weighting(variant))
    assert weights == pytest.approx(np.full(len(now), 1 / len(now)))
    assert effective_share([weights]) == pytest.approx(1.0)


def test_the_ratio_is_exact_without_length_and_tempered_with_it() -> None:
    now, generator = np.log([0.5, 0.25]), np.log([0.25, 0.25])
    assert log_ratio(now, generator, 0.0) == pytest.approx(np.log(2))
    assert log_ratio(now, generator, 1.0) == pytest.approx(np.log(2) / 2)
    assert log_ratio(now + 9, generator, 1.0) == pytest.approx(np.log(MAX_RATIO))
    assert log_ratio(now - 9, generator, 1.0) == pytest.approx(-np.log(MAX_RATIO))
    assert log_ratio(now - 9, generator, 1.0, floor=False) == pytest.approx(np.log(2) / 2 - 9)
    raw = response_weights([now - 9], [generator], Weighting(RAW))
    assert raw == pytest.approx(np.exp(np.log(2) / 2 - 9)), "what is nearly impossible now counts for nearly nothing"


def test_what_the_model_likes_better_than_its_generator_did_counts_more() -> None:
    generator = [np.full(4, -1.0), np.full(4, -1.0)]
    now = [np.full(4, -0.5), np.full(4, -1.5)]
    (up, down) = response_weights(now, generator, Weighting(SELF_NORMALIZED, length_power=1.0))
    assert up / down == pytest.approx(np.exp(0.5) / np.exp(-0.5))
    sharp = response_weights(now, generator, Weighting(SELF_NORMALIZED, temperature=0.5))
    assert sharp[0] > up
    assert response_weights(now, generator, Weighting(UNIFORM)) == pytest.approx([0.5, 0.5])
    assert response_weights(now, generator, Weighting(RAW)) == pytest.approx(np.exp([0.5, -0.5]) / 2)
    assert response_weights(now, generator, Weighting(TOKEN)) == pytest.approx([0.5, 0.5])
    assert token_weights(now[0], generator[0]) == pytest.approx(np.exp(np.full(4, 0.5)))
    assert token_weights(np.array([0.0]), np.array([-90.0])).tolist() == [MAX_RATIO]


def test_softmin_goes_by_the_loss_alone() -> None:
    now = [np.full(4, -0.5), np.full(8, -1.5)]
    weights = response_weights(now, [np.zeros(4), np.zeros(8)], Weighting(SOFTMIN))
    assert weights[0] / weights[1] == pytest.approx(np.exp(1.0))


def test_a_single_response_is_weighed_by_its_ratio() -> None:
    weights = response_weights([np.array([-1.0])], [np.array([-2.0])], Weighting())
    assert weights.tolist() == pytest.approx([np.e])
    assert response_weights([np.array([-1.0])], [np.array([-9.0])], Weighting()).tolist() == pytest.approx([MAX_RATIO])


def test_the_share_in_effect_falls_as_the_model_moves_away() -> None:
    assert effective_share([np.array([0.25] * 4)]) == pytest.approx(1.0)
    assert effective_share([np.array([1.0, 0, 0, 0])]) == pytest.approx(0.25)
    assert effective_share([np.array([0.5, 0.5]), np.array([1.0, 0.0])]) == pytest.approx(0.75)
    # Not one counts any more: the exact ratio of a long answer may be 0 in a double.
    assert effective_share([np.zeros(4), np.zeros(4)]) == 0.0
    gone = response_weights([np.full(400, -9.0)] * 2, [np.full(400, -1.0)] * 2, Weighting(RAW, length_power=0.0))
    assert effective_share([gone]) == 0.0
    # One response to a question each: over all questions.
    assert effective_share([np.array([1.0]), np.array([1.0])]) == pytest.approx(1.0)
    stale = [np.array([10.0]), np.array([0.1])]
    assert effective_share(stale) == pytest.approx(0.51, abs=0.01)
    # Beside questions with several they are no less stale.
    assert effective_share([*stale, np.array([0.5, 0.5])]) == pytest.approx((2 * 0.51 + 1) / 3, abs=0.01)


def test_over_all_responses_ratio_weighting_is_the_models_own_distribution() -> None:
    """With a tiny vocabulary every response can be drawn up: weighted by the ratio, what one distribution generates has
    the other's mean."""
    random = np.random.default_rng(0)
    model, generator = random.dirichlet(np.ones(6)), (random.dirichlet(np.ones(6)) + 1 / 6) / 2
    values = random.normal(size=6)
    drawn = random.choice(6, size=200_000, p=generator)
    ratios = (model / generator)[drawn]
    assert (ratios * values[drawn]).mean() == pytest.approx(model @ values, abs=0.02)
    # And the score identity: such weights alone have no gradient, E[r ∇log π] = 0.
    slopes = np.eye(6) - model  # of log π in its logits, by response
    assert (ratios[:, None] * slopes[drawn]).mean(0) == pytest.approx(np.zeros(6), abs=0.02)
