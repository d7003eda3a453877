"""Which model is taken by its losses on trusted rows; numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from burnish.coordinator.policy.choice import choose

NOTHING = {"a": (2.0, 2), "b": (4.0, 4), "c": (6.0, 2)}  # 12 nats over 8 tokens


def test_the_difference_is_over_tokens_and_its_error_that_of_the_paired_rows() -> None:
    other = {"a": (1.0, 2), "b": (4.0, 4), "c": (3.0, 2)}
    choice = choose(NOTHING, [other], errors=1.0)
    nothing, tried = choice.tried
    assert (nothing.loss, nothing.difference, nothing.error) == (1.5, 0.0, 0.0)
    assert (tried.loss, tried.difference) == (1.0, -0.5)
    # Gained -1, 0, -3, of which -1, -2, -1 are expected: 0, 2, -2 are left; 8 · 3/2 under the root, over 8 tokens.
    assert tried.error == pytest.approx(math.sqrt(12) / 8)
    assert choice.place == 1
    assert choose(NOTHING, [other], errors=2.0).place == 0, "0.5 is not beyond two errors of 0.43"


def test_the_lowest_of_those_that_are_better_beyond_chance_is_taken_where_it_is_alone() -> None:
    less = {name: (nats * 0.9, tokens) for name, (nats, tokens) in NOTHING.items()}
    least = {name: (nats * 0.8, tokens) for name, (nats, tokens) in NOTHING.items()}
    worse = {name: (nats * 1.1, tokens) for name, (nats, tokens) in NOTHING.items()}
    assert choose(NOTHING, [worse, less, least], errors=1.0).place == 3
    assert choose(NOTHING, [worse], errors=0.0).place == 0
    assert choose(NOTHING, [dict(NOTHING)], errors=0.0).place == 0, "as good is not better"


def test_of_those_within_one_standard_error_of_the_best_the_one_that_leaves_out_least_is_taken() -> None:
    # Above the lowest by 1, -0.5 and 0 nats, where 1/8, 1/4 and 1/8 are expected: 0.875, -0.75 and -0.125 are left.
    lowest = {"a": (1.0, 2), "b": (2.0, 4), "c": (3.0, 2)}
    near = {"a": (2.0, 2), "b": (1.5, 4), "c": (3.0, 2)}
    error = math.sqrt(1.5 * (0.875**2 + 0.75**2 + 0.125**2)) / 8
    assert error > 0.5 / 8
    assert choose(NOTHING, [near, lowest], errors=1.0).place == 1
    assert choose(NOTHING, [lowest, near], errors=1.0).place == 1, "the lowest leaves out less"
    assert choose(NOTHING, [dict(NOTHING), near, lowest], errors=1.0).place == 2, "as good as nothing is not better"
    # Now by 1, 0.5 and 0.25, of which a quarter, a half and a quarter are expected.
    far = {"a": (2.0, 2), "b": (2.5, 4), "c": (3.25, 2)}
    left = [1 - 1.75 / 4, 0.5 - 1.75 / 2, 0.25 - 1.75 / 4]
    error = math.sqrt(1.5 * sum(value**2 for value in left)) / 8
    assert error < 1.75 / 8
    assert choose(NOTHING, [far, lowest], errors=1.0).place == 2


def test_what_a_model_could_not_score_counts_for_none() -> None:
    other = {"a": (1.0, 2), "b": (3.0, 4)}
    assert [one.loss for one in choose(NOTHING, [other], errors=0.0).tried] == [1.0, pytest.approx(4 / 6)]
    with pytest.raises(ValueError, match="0 different trusted rows were scored by all"):
        choose(NOTHING, [{"z": (1.0, 1)}], errors=1.0)
    with pytest.raises(ValueError, match="1 different trusted rows"):
        choose(NOTHING, [{"a": (0.0, 2)}], errors=0.0)
