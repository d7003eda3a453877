"""The arithmetic of the training bench: operations of a model, and tokens from what a worker reports."""

from __future__ import annotations

import pytest

from bench.training.flops import ONE_BILLION, Shape, training_flops
from bench.training.runs import tokens_by

SMOLLM2_135M = Shape(30, 576, 1536, 9, 3, 64, 49_152)
TINY = Shape(layers=2, hidden=8, intermediate=12, heads=2, kv_heads=1, head_dim=4, vocabulary=10)


def test_weights_are_those_of_the_models_themselves() -> None:
    # 134,515,008 in all, of which 30 * 2 + 1 norms of 576.
    assert SMOLLM2_135M.body_weights + SMOLLM2_135M.head_weights == 134_515_008 - 61 * 576
    assert ONE_BILLION.body_weights + ONE_BILLION.head_weights == pytest.approx(1.07e9, rel=0.01)


def test_a_token_without_others_costs_six_operations_a_weight() -> None:
    attention_to_itself = 3 * 4 * 2 * 8
    assert training_flops(TINY, [1], 0) == 6 * TINY.body_weights + attention_to_itself
    assert training_flops(TINY, [1], 1) - training_flops(TINY, [1], 0) == 6 * 8 * 10


def test_a_token_attends_to_itself_and_to_those_before_it_in_its_own_sample() -> None:
    pairs = sum(1 for length in (3, 5) for query in range(length) for key in range(length) if key <= query)
    without = 6 * TINY.body_weights * 8
    assert training_flops(TINY, [3, 5], 0) - without == 3 * pairs * 2 * 2 * (2 * 4) * 2
    assert training_flops(TINY, [8], 0) > training_flops(TINY, [3, 5], 0)


def test_tokens_follow_from_the_rate_and_the_seconds_left_that_a_worker_reports() -> None:
    tokens, seconds, step, total = 1_237, 0.81, 2, 6
    reported = {
        "step": step,
        "total_steps": total,
        "tokens_per_second": tokens / seconds,
        "seconds_left": (total - step) * seconds / step,
    }
    assert tokens_by(reported) == tokens
    assert tokens_by({"step": step, "tokens": 55}) == 55
