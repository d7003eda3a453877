"""Which rewrites are accepted and which rows leave, by numbers that were worked out by hand."""

from __future__ import annotations

import math

import pytest

from burnish.coordinator.policy.acceptance import Accept, Acceptance, Refusal, Rejected, Trial, decide, told, why
from burnish.coordinator.policy.middo import Action


def one(trial: Trial, *, line: float | None = None, accept: Accept = Accept.AGREE) -> Acceptance:
    (verdict,) = decide([trial], accept, Rejected.KEEP, line)
    return verdict


def trial(
    before: float | None,
    after: float | None,
    worse: float | None,
    better: float | None,
    action: Action = Action.IMPROVE,
    *,
    row: str = "r",
) -> Trial:
    return Trial(row, action, Refusal.NONE, before, after, worse, better)


@pytest.mark.parametrize(
    ("tried", "refusal"),
    [
        (trial(2.0, 1.9, 5.0, 6.0), Refusal.NONE),
        (trial(2.0, 2.0, 5.0, 5.0), Refusal.NONE),  # no worse is enough
        (trial(2.0, 2.001, 5.0, 9.0), Refusal.LOSS),
        (trial(2.0, 1.0, 5.0, 4.99), Refusal.RATING),
        (trial(2.0, 3.0, 5.0, 4.0), Refusal.LOSS),
        (trial(None, 1.0, 5.0, 6.0), Refusal.UNSCORED),
        (trial(2.0, math.inf, 5.0, 6.0), Refusal.UNSCORED),
        (trial(2.0, 1.0, math.nan, 6.0), Refusal.UNRATED),
        (trial(2.0, 1.0, 5.0, None), Refusal.UNRATED),
        (trial(None, None, None, None), Refusal.UNSCORED),
        (trial(None, 1.0, 5.0, 4.0), Refusal.RATING),  # what is known goes first
        (trial(2.0, 3.0, None, 4.0), Refusal.LOSS),
        (Trial("r", Action.SIMPLIFY, Refusal.INVALID), Refusal.INVALID),
        (Trial("r", Action.SIMPLIFY, Refusal.FAILED), Refusal.FAILED),
    ],
)
def test_a_rewrite_is_accepted_where_both_know_of_nothing_against_it(tried: Trial, refusal: Refusal) -> None:
    verdict = one(tried)
    assert (verdict.refusal, verdict.accepted) == (refusal, refusal is Refusal.NONE)
    assert bool(why(verdict)) == (not verdict.accepted)
    assert not verdict.dropped


@pytest.mark.parametrize(
    ("line", "after", "limit", "refusal"),
    [
        (3.0, 2.9, 3.0, Refusal.NONE),  # above its source row's 2.0, which the model was trained on
        (3.0, 3.1, 3.0, Refusal.LOSS),
        (None, 2.9, 2.0, Refusal.LOSS),
        (None, 2.0, 2.0, Refusal.NONE),
        (1.5, 1.8, 1.5, Refusal.LOSS),
    ],
)
def test_a_new_row_must_not_be_one_that_the_round_calls_too_hard(
    line: float | None, after: float, limit: float, refusal: Refusal
) -> None:
    verdict = one(trial(2.0, after, 5.0, 5.0, Action.DIVERSIFY), line=line)
    assert (verdict.loss_limit, verdict.refusal) == (limit, refusal)
    assert one(trial(2.0, after, 5.0, 5.0, Action.SIMPLIFY), line=line).loss_limit == 2.0, "others replace their row"


def test_as_published_nothing_but_the_rules_counts() -> None:
    assert one(trial(2.0, 9.0, 5.0, 1.0), accept=Accept.VALID).accepted
    assert not one(Trial("r", Action.IMPROVE, Refusal.INVALID), accept=Accept.VALID).accepted


def test_rows_leave_only_where_what_is_known_speaks_against_every_replacement() -> None:
    worse, good = (2.0, 3.0, 5.0, 6.0), (2.0, 1.0, 5.0, 6.0)
    trials = [
        trial(*worse, row="refused"),
        trial(*worse, Action.SIMPLIFY, row="twice"),
        Trial("twice", Action.IMPROVE, Refusal.INVALID),
        trial(*worse, Action.SIMPLIFY, row="one of two"),
        trial(*good, Action.IMPROVE, row="one of two"),
        trial(*worse, Action.SIMPLIFY, row="not known"),
        Trial("not known", Action.IMPROVE, Refusal.FAILED),
        trial(2.0, None, 5.0, 6.0, row="unscored"),
        trial(*worse, Action.DIVERSIFY, row="new row"),
        trial(*worse, Action.DIVERSIFY, row="both"),
        trial(*worse, Action.IMPROVE, row="both"),
        trial(*good, row="accepted"),
    ]
    verdicts = decide(trials, Accept.AGREE, Rejected.DROP, 2.5)
    assert [(v.row_id, v.strategy) for v in verdicts if v.dropped] == [
        ("refused", "improve"),
        ("twice", "simplify"),
        ("twice", "improve"),
        ("both", "improve"),
    ]
    kept = decide(trials, Accept.AGREE, Rejected.KEEP, 2.5)
    assert not any(v.dropped for v in kept)
    assert [v.accepted for v in kept] == [v.accepted for v in verdicts]
    by_rules = decide(trials, Accept.VALID, Rejected.DROP, 2.5)
    assert not any(v.dropped for v in by_rules), "each has a rewrite, or one that the service failed to make"


def test_where_no_rewrite_is_accepted_all_rows_to_be_replaced_may_leave() -> None:
    good, failed = trial(3.0, 2.0, 5.0, 6.0), Trial("b", Action.IMPROVE, Refusal.FAILED)
    new = trial(3.0, 2.0, 5.0, 6.0, Action.DIVERSIFY, row="c")
    gone = decide([good, failed, new], Accept.NONE, Rejected.DROP, None)
    assert [(one.accepted, one.refusal, one.dropped) for one in gone] == [
        (False, "declined", True),
        (False, "declined", True),
        (False, "declined", False),
    ]
    assert not any(one.dropped for one in decide([good, failed], Accept.NONE, Rejected.KEEP, None))
    assert told(gone[0]) == "Rewrite to improve not accepted, and the row dropped: none is accepted in this run."


def test_refusals_are_told_with_their_numbers() -> None:
    both = decide([trial(2.0, 3.0, 5.0, 4.0)], Accept.AGREE, Rejected.DROP, None)[0]
    assert told(both) == (
        "Rewrite to improve not accepted, and the row dropped: its loss under the round's model, 3.000, is above its"
        " original's 2.000; the base model rates it 4.00, its original 5.00."
    )
    new = one(trial(2.0, 3.0, 5.0, 5.0, Action.DIVERSIFY), line=2.5)
    assert told(new) == (
        "Rewrite to diversify not accepted: its loss under the round's model, 3.000, is above the line that makes a row"
        " too hard, 2.500."
    )
    assert (both.loss_against, both.rating_against) == (True, True)
    assert (new.loss_against, new.rating_against) == (True, False)
