"""Online self-refinement as decided by the coordinator: questions, vitals, when it stops, and what becomes of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Weight
from burnish.coordinator.policy.refinement import (
    Answer,
    Limits,
    Questions,
    Vitals,
    choose_questions,
    collapse,
    consensus,
    divergence,
    refine_verdicts,
    vitals,
)
from burnish.coordinator.policy.verdict import Action, Verdict

ROWS = [DataRow(f"r{i}", f"h{i}", "source", None, f"r{i}") for i in range(10)]
WEIGHTS = {
    row.row_id: Weight(1.0, float(logit)) for row, logit in zip(ROWS, (5, 1, 4, 1, 5, 9, 2, 6, 5, 3), strict=True)
}
HEALTHY = Vitals(10, 40, 40, 10, 1.0, 20.0, 0.9, 0.1)


def test_the_questions_that_weigh_least_are_asked_in_the_order_of_the_data() -> None:
    asked = choose_questions(ROWS, WEIGHTS, 0.3, Questions.LOWEST, 0)
    assert [row.row_id for row in asked] == ["r1", "r3", "r6"]
    assert len(choose_questions(ROWS, WEIGHTS, 0.01, Questions.LOWEST, 0)) == 1
    assert choose_questions(ROWS, {}, 0.5, Questions.LOWEST, 0) == []


def test_a_row_without_a_weight_is_not_asked() -> None:
    known = {name: weight for name, weight in WEIGHTS.items() if name != "r1"}
    for choice in Questions:
        assert "r1" not in {row.row_id for row in choose_questions(ROWS, known, 1.0, choice, 3)}


def test_random_questions_follow_from_the_seed() -> None:
    drawn = [tuple(choose_questions(ROWS, WEIGHTS, 0.5, Questions.RANDOM, seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {len(one) for one in drawn} == {5}


def test_vitals_are_over_tokens_and_against_the_data() -> None:
    answers = [
        Answer("a", 1, "Paris.", 2, -1.0),
        Answer("a", 2, "no", 6, -2.0, "refusal"),
        Answer("b", 1, "paris", 4, -0.5),
        Answer("c", 1, rejection="TOO_LONG"),
    ]
    found = vitals(answers, {"a": "one", "b": "two", "c": "two"}, {"a": "A", "b": "B", "c": "C"})
    assert (found.num_questions, found.num_answers, found.num_accepted, found.num_answered) == (3, 4, 2, 2)
    assert found.entropy == pytest.approx((2 * 1.0 + 6 * 2.0 + 4 * 0.5) / 12)
    assert found.length == 4
    # One different answer to two questions, where the data have two for three.
    assert found.distinct == pytest.approx((1 / 2) / (2 / 3))


def test_rows_with_one_prompt_are_one_question() -> None:
    """Answers are asked for once a prompt: however many rows have it, and however different their own responses are,
    that they get the same answers says nothing."""
    rows = [f"r{number}" for number in range(10)]
    answers = [Answer(row, 1, "Paris.", 2, -1.0) for row in rows]
    now = vitals(answers, {row: f"poem {row}" for row in rows}, dict.fromkeys(rows, "Write a poem."))
    assert now.distinct == 1.0
    assert collapse(now, now, Limits()) == ""


def test_nothing_is_said_of_no_answers() -> None:
    found = vitals([Answer("a", 1, rejection="TOO_LONG")], {"a": "one"}, {"a": "A"})
    assert (found.entropy, found.length, found.distinct) == (None, None, None)
    assert collapse(found, found, Limits()) == "not one answer passes the checks"


def test_divergence_is_zero_from_itself_and_counts_tokens() -> None:
    answers = [Answer("a", 1, "x", 2, -1.0), Answer("b", 1, "y", 8, -0.5), Answer("c", 1, "z", 5, -9.0, "refusal")]
    same = {("a", 1): 1.0, ("b", 1): 0.5}
    assert divergence(answers, same) == pytest.approx(0.0)
    assert divergence(answers, {("a", 1): 3.0, ("b", 1): 0.5}) == pytest.approx(2 * 2.0 / 10)
    assert divergence(answers, {}) is None


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"num_accepted": 10}, "10 of 40 answers pass the checks, fewer than 50%"),
        ({"entropy": 0.05}, "entropy of the answers fell from 1.000 to 0.050"),
        ({"length": 4.0}, "from 20.0 to 4.0 tokens"),
        ({"length": 100.0}, "from 20.0 to 100.0 tokens"),
        ({"distinct": 0.1}, "10% as many different ones"),
        ({"divergence": 3.0}, "3.000 nats per token away from the base model, more than 2"),
    ],
)
def test_each_sign_of_collapse_stops_it_and_says_why(now: dict[str, float], why: str) -> None:
    fields = {name: getattr(HEALTHY, name) for name in Vitals.__slots__}
    assert why in collapse(Vitals(**(fields | now)), HEALTHY, Limits(max_divergence=2.0))
    assert collapse(HEALTHY, HEALTHY, Limits(max_divergence=2.0)) == ""


def test_without_a_limit_any_distance_is_allowed() -> None:
    far = Vitals(10, 40, 40, 10, 1.0, 20.0, 0.9, 1e6)
    assert collapse(far, HEALTHY, Limits()) == ""


def test_the_answer_that_most_give_is_taken_and_of_equals_the_likeliest() -> None:
    answers = [
        Answer("a", 1, "Rome", 2, -0.1),
        Answer("a", 2, "Paris.", 2, -2.0),
        Answer("a", 3, "paris", 2, -1.0),
        Answer("a", 4, "Bonn", 2, -0.01, "truncated"),
    ]
    best = consensus(answers)
    assert best is not None
    assert (best[0].number, best[1]) == (3, 2)
    tied = consensus(answers[:2])
    assert tied is not None
    assert tied[0].number == 1
    assert consensus(answers[3:]) is None


@given(st.lists(st.sampled_from(list(Action)), min_size=1, max_size=10), st.data())
def test_only_what_would_be_left_out_is_answered_anew(actions: list[Action], data: st.DataObject) -> None:
    verdicts = [Verdict(f"r{i}", (action,), {}, ("why",)) for i, action in enumerate(actions)]
    names = [one.row_id for one in verdicts]
    answered = data.draw(st.sets(st.sampled_from(names)))
    found = refine_verdicts(verdicts, {name: (f"{name}'", "because") for name in answered})
    for before, after in zip(verdicts, found, strict=True):
        changed = before.actions == (Action.DROP,) and before.row_id in answered
        assert after.actions == ((Action.REFINE,) if changed else before.actions)
        assert after.hints == ((f"{before.row_id}'",) if changed else ())
        assert after.reasons == (("why", "because") if changed else ("why",))
