"""CLEAR's decisions: the worked oracle of BSDetector, the line, ties, both orders, and the extremes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.policy.clear import (
    Candidate,
    CorrectionRules,
    Preference,
    RowEvidence,
    decide,
    judged,
    probability_of_candidate,
    rejection_of,
)
from burnish.coordinator.policy.confidence import (
    Evidence,
    SampledAnswer,
    Weights,
    combined,
    consistency,
    mixture_notes,
    reflection,
    reflection_health,
    signals_of,
)
from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.filtering import FilterRule, Ties, filter_rows
from burnish.coordinator.policy.sameness import normal
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.policy.verdict import Action, Unscored
from burnish_services.scoring import answers as of_service

A, B, C = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
SURE = Preference(((0.05, 0.9, 0.05), (0.05, 0.9, 0.05)), (0.9, 0.9), 0.0)


def answers(similarities: list[float], matches: list[int]) -> tuple[SampledAnswer, ...]:
    return tuple(SampledAnswer("y", s, bool(r)) for s, r in zip(similarities, matches, strict=True))


ORACLE = Evidence((A, C), (1.0, 1.0), answers([1, 0.5, 0, 1, 1], [1, 0, 0, 1, 1]), 1.0, 0.5)


def line(tau: float | None = 0.5, signal: str = "confidence") -> Threshold:
    return Threshold("low_confidence", signal, 0.5, 0.1, None, tau, 0.5, 0, 4, 0)


# --- confidence -------------------------------------------------------------------------------------------------------


def test_the_worked_example_of_bsdetector() -> None:
    weights = Weights(alpha=0.8, beta=0.7)
    assert consistency(ORACLE, weights) == pytest.approx(0.68)
    assert reflection(ORACLE, weights) == pytest.approx(0.75)
    assert combined(ORACLE, weights) == pytest.approx(0.701)
    assert combined(ORACLE, Weights(likelihood=0.5)) == pytest.approx(0.5 * 0.701 + 0.25)


def test_a_missing_part_leaves_its_weight_to_the_others() -> None:
    unread = (SampledAnswer("", None, None, "hm", "UNPARSEABLE"),)
    assert combined(Evidence((A,), (0.9,), unread), Weights()) == 1.0
    unlikely = Evidence((A,), (0.2,), answers([0.5], [0]))
    assert reflection(unlikely, Weights()) is None
    assert combined(unlikely, Weights()) == pytest.approx(0.4)
    assert combined(Evidence((A,), (0.9,)), Weights(beta=1.0)) == 1.0
    assert combined(Evidence((A,), (0.2,), unread), Weights()) is None
    assert signals_of(Evidence(mean_nll=math.log(4)), Weights()) == {"likelihood": pytest.approx(0.25)}
    assert signals_of(Evidence(min_probability=0.25), Weights()) == {"weakest": pytest.approx(-math.log(4))}


def test_verdicts_that_follow_the_order_of_the_answers_are_counted() -> None:
    letter = Evidence((A, B, C, A, B, C), (1.0,) * 6)  # whatever stands first
    firm = Evidence((A,) * 6, (1.0,) * 6)
    half = Evidence((A, A, A, A, B, C), (1.0,) * 6)
    found = reflection_health([letter, firm, half], Weights())
    assert found is not None
    assert found.flip_share == pytest.approx(3 / 6)
    assert found.unreadable_share == 0
    same = reflection_health([firm] * 5, Weights())
    assert same is not None
    assert (same.mean, same.std, same.flip_share) == (1.0, 0.0, 0.0)
    assert reflection_health([Evidence(mean_nll=1.0)], Weights()) is None


def test_confidence_of_different_parts_is_warned_of() -> None:
    read = Evidence((C,), (1.0,), answers([0.1], [0]))
    unread = Evidence((C,), (1.0,), (SampledAnswer("", None, None, "hm", "UNPARSEABLE"),))
    (note,) = mixture_notes([read] * 3 + [unread] * 2, Weights())
    assert note.startswith("in 2 of 5 samples not one sampled answer could be read")
    assert "0.500 in the mean, 0.206 for the others" in note
    assert mixture_notes([read] * 5, Weights()) == []
    assert mixture_notes([unread] * 5, Weights()) == []
    assert mixture_notes([Evidence((C,), (1.0,))] * 5, Weights()) == [], "the fast tier samples nothing"


# --- the filter -------------------------------------------------------------------------------------------------------

VALUES = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1)), max_size=40)
RULES = st.one_of(
    st.builds(FilterRule, ties=st.sampled_from(Ties)),
    st.builds(FilterRule, drop_fraction=st.floats(0, 0.99), ties=st.sampled_from(Ties)),
    st.builds(FilterRule, threshold=st.floats(0, 1)),
)


def ids(count: int) -> list[str]:
    return [f"r{i}" for i in range(count)]


@given(VALUES, RULES)
def test_the_filter_drops_what_is_asked_for_and_no_more(values: list[float | None], rule: FilterRule) -> None:
    drawn, passed = filter_rows("confidence", ids(len(values)), values, rule)
    scored = [(v, p) for v, p in zip(values, passed, strict=True) if v is not None]
    assert all(p is None for v, p in zip(values, passed, strict=True) if v is None)
    assert (drawn.num_values, drawn.num_excluded) == (len(scored), len(values) - len(scored))
    failed = [v for v, p in scored if not p]
    kept = [v for v, p in scored if p]
    assert not failed or not kept or max(failed) <= min(kept)
    if rule.threshold is None and scored:
        share = 0.5 if rule.drop_fraction is None else rule.drop_fraction
        most = int(share * len(scored) + 1e-9)
        assert kept, "a share never empties the set"
        assert len(failed) == most if rule.ties is Ties.RANK else len(failed) <= most


@given(VALUES, RULES, st.randoms())
def test_order_plays_no_part(values: list[float | None], rule: FilterRule, shuffle) -> None:
    _, passed = filter_rows("s", ids(len(values)), values, rule)
    pairs = list(zip(ids(len(values)), values, strict=True))
    shuffle.shuffle(pairs)
    _, again = filter_rows("s", [p[0] for p in pairs], [p[1] for p in pairs], rule)
    assert dict(zip([p[0] for p in pairs], again, strict=True)) == dict(zip(ids(len(values)), passed, strict=True))


def test_the_median_keeps_what_is_on_it() -> None:
    assert filter_rows("s", ids(3), [0.1, 0.2, 0.3], FilterRule())[1] == [False, True, True]
    assert filter_rows("s", ids(4), [0.1, 0.2, 0.3, 0.4], FilterRule())[1] == [False, False, True, True]


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_constant_scores_drop_nothing(count: int) -> None:
    drawn, passed = filter_rows("s", ids(count), [0.5] * count, FilterRule())
    assert passed == [True] * count
    assert (drawn.tau, drawn.num_tied) == (0.5, count)
    ranked = filter_rows("s", ids(count), [0.5] * count, FilterRule(ties=Ties.RANK))[1]
    assert ranked.count(False) == count // 2


@pytest.mark.parametrize("ties", list(Ties))
def test_however_large_a_share_goes_one_row_stays(ties: Ties) -> None:
    values = [0.1 * number for number in range(20)]
    _, passed = filter_rows("s", ids(20), values, FilterRule(drop_fraction=1 - 1e-11, ties=ties))
    assert passed == [False] * 19 + [True]


@pytest.mark.parametrize("values", [[], [None, None]])
def test_nothing_to_go_by_draws_no_line(values: list[None]) -> None:
    drawn, passed = filter_rows("s", ids(len(values)), values, FilterRule())
    assert drawn.tau is None
    assert passed == [None] * len(values)


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40), st.integers(0, 5))
def test_the_control_fails_as_many_rows_at_random(values: list[float | None], seed: int) -> None:
    _, real = filter_rows("s", ids(len(values)), values, FilterRule(seed=seed))
    _, control = filter_rows("s", ids(len(values)), values, FilterRule(control=Control.RANDOM, seed=seed))
    assert control.count(False) == real.count(False)
    assert [p is None for p in control] == [p is None for p in real]


def test_the_control_depends_on_its_seed_and_not_on_the_values() -> None:
    values = [i / 40 for i in range(40)]
    drawn = [
        filter_rows("s", ids(40), v, FilterRule(control=Control.RANDOM, seed=s))[1]
        for v in (values, values[::-1])
        for s in (1, 2)
    ]
    assert drawn[0] == drawn[2]
    assert drawn[0] != drawn[1]


@given(
    st.lists(st.tuples(st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]), st.sampled_from([None, 0.1, 0.9])), max_size=40),
    st.integers(0, 5),
)
def test_a_later_rounds_control_fails_as_many_rows_as_a_real_run(
    rows: list[tuple[float | None, float | None]], seed: int
) -> None:
    """Each row's value in the first round, and, where its response was then replaced, the new one."""
    names, first = ids(len(rows)), [value for value, _ in rows]
    changed = {name: value for name, (_, value) in zip(names, rows, strict=True) if value is not None}
    second = [changed.get(name, value) for name, value in zip(names, first, strict=True)]
    found: dict[Control, list[list[bool | None]]] = {}
    for control in Control:
        line, passed = filter_rows("s", names, first, FilterRule(control=control, seed=seed))
        standing = {name: one for name, one in zip(names, passed, strict=True) if name not in changed}
        rule = FilterRule(line.tau, control=control, seed=seed, round_number=2)
        _, again = filter_rows("s", names, second, rule, standing=standing)
        if line.tau is not None:
            assert all(again[names.index(name)] == one for name, one in standing.items()), "the same again"
        found[control] = [passed, again]
    for real, drawn in zip(found[Control.NONE], found[Control.RANDOM], strict=True):
        assert [one is None for one in drawn] == [one is None for one in real]
    new = [[one for one, name in zip(again, names, strict=True) if name in changed] for _, again in found.values()]
    assert new[0].count(False) == new[1].count(False)


def test_a_control_draws_anew_in_each_round() -> None:
    """Else what failed, and was corrected, would fail again."""
    values = [i / 40 for i in range(40)]
    drawn = {
        tuple(filter_rows("s", ids(40), values, FilterRule(0.5, control=Control.RANDOM, round_number=number))[1])
        for number in (1, 2, 3)
    }
    assert len(drawn) == 3


# --- candidates -------------------------------------------------------------------------------------------------------

PROBABILITIES = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).filter(lambda p: sum(p) > 1e-6)


@given(PROBABILITIES, PROBABILITIES)
def test_exchanging_response_and_candidate_gives_one_minus_the_probability(first, second) -> None:
    one, two = ([x / sum(p) for x in p] for p in (first, second))
    there = Preference(((*one,), (*two,)), (1, 1), 0.3)
    # The other way round: what stood in front stands behind, so the orders change places as well.
    back = Preference(((two[1], two[0], two[2]), (one[1], one[0], one[2])), (1, 1), -0.3)
    p, q = (probability_of_candidate(x, swap=True) for x in (there, back))
    assert p + q == pytest.approx(1.0)
    assert there.flipped == back.flipped


def test_a_candidate_must_win_by_eta_in_both_orders() -> None:
    assert judged(SURE, CorrectionRules())[0]
    assert not judged(SURE, CorrectionRules(eta=0.95))[0]
    place = Preference(((0.0, 1.0, 0.0), (0.55, 0.45, 0.0)), (0.9, 0.9), 0.0)
    assert judged(place, CorrectionRules(eta=0.6))[0] is False
    assert judged(place, CorrectionRules(eta=0.6, swap=False))[:2] == (True, 1.0)
    tie = Preference(((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)), (0.9, 0.9), 0.0)
    assert judged(tie, CorrectionRules(eta=0.4))[:2] == (False, 0.5)


def test_mass_and_length_guard_a_win() -> None:
    unlikely = Preference(SURE.orders, (0.3, 0.4), 0.0)
    assert "0.35 of the probability" in judged(unlikely, CorrectionRules())[2]
    long = Preference(SURE.orders, (0.9, 0.9), math.log(4))
    assert judged(long, CorrectionRules())[0]
    assert "4.0 times as long" in judged(long, CorrectionRules(max_length_ratio=3))[2]
    assert judged(long, CorrectionRules(max_length_ratio=5))[0]
    for times in range(1, 50):
        just = Preference(SURE.orders, (0.9, 0.9), math.log(times))
        assert judged(just, CorrectionRules(max_length_ratio=times))[0], "it is not longer than that"


@pytest.mark.parametrize(
    ("candidate", "truncated", "why"),
    [("  Paris! ", False, "same"), (" \n", False, "empty"), ("Rome", True, "truncated"), ("Rome", False, "")],
)
def test_some_candidates_need_no_judge(candidate: str, truncated: bool, why: str) -> None:
    assert rejection_of("paris", candidate, truncated=truncated) == why


@pytest.mark.parametrize(
    ("response", "candidate"),
    [
        *[("-5", "5"), ("−5", "5"), (".5", "5"), ("C#", "C++"), ("C", "C#"), ("50%", "50"), ("👍", "👎"), ("!", "?")],
        ("लड़का", "लड़की"),
    ],
)
def test_signs_symbols_and_the_marks_of_scripts_are_part_of_an_answer(response: str, candidate: str) -> None:
    assert rejection_of(response, candidate, truncated=False) == ""
    assert normal(response) == of_service.normal(response), "the services have the same rule"
    assert not of_service.same(response, candidate)
    assert of_service.overlap(response, candidate) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        *[
            " paris.",
            "“Paris”",
            "(Paris)",
            "**Paris!**",
            "`paris`",
            "Paris。",
            "«Paris»",
            "¡Paris!",
            "- Paris",
            "• paris",
        ],
        "Paris\u200b",
    ],
)
def test_what_stands_around_an_answer_is_no_part_of_it(text: str) -> None:
    assert normal(text) == of_service.normal(text) == "paris"
    assert of_service.overlap(text, "paris") == 1.0


# --- what becomes of rows ---------------------------------------------------------------------------------------------


def row(passed: bool | None, *candidates: Candidate, value: float | None = None) -> RowEvidence:
    value = value if value is not None else {True: 0.8, False: 0.2, None: None}[passed]
    return RowEvidence("r", {} if value is None else {"confidence": value}, passed, candidates)


def action(one: RowEvidence, **more) -> Action:
    (verdict,) = decide([one], line(), CorrectionRules(), **more)
    assert verdict.reasons
    return verdict.actions[0]


def test_every_row_ends_with_one_action() -> None:
    wins = Candidate(1, "h1", "", SURE)
    loses = Candidate(1, "h1", "", Preference(((0.9, 0.1, 0.0),) * 2, (1, 1), 0.0))
    assert action(row(True)) is Action.KEEP
    assert action(row(False)) is Action.DROP
    assert action(row(False, wins)) is Action.CORRECT
    assert action(row(False, loses)) is Action.DROP
    assert action(row(True, wins)) is Action.CORRECT, "with the scope all"
    assert action(row(True, loses)) is Action.KEEP
    assert action(row(False, Candidate(1, "h", "same"))) is Action.KEEP
    assert action(row(False, Candidate(1, "h", "truncated"))) is Action.DROP
    assert action(row(False, Candidate(1, None, "TOO_LONG"))) is Action.DROP
    assert action(row(None)) is Action.UNSCORED
    assert action(row(None), unscored=Unscored.DROP) is Action.DROP


def test_the_best_candidate_takes_the_place() -> None:
    better = Preference(((0.0, 1.0, 0.0),) * 2, (1, 1), 0.0)
    (verdict,) = decide(
        [row(False, Candidate(1, "h1", "", SURE), Candidate(2, "h2", "", better), Candidate(3, "h3", "empty"))],
        line(),
        CorrectionRules(),
    )
    assert verdict.hints == ("h2",)
    assert verdict.signals["preference"] == 1.0
    assert len(verdict.reasons) == 4


def test_reasons_say_the_numbers() -> None:
    (failed, tied, control) = (
        decide([r], line(), CorrectionRules(), control=c)[0].reasons[0]
        for r, c in ((row(False), Control.NONE), (row(False, value=0.5), Control.NONE), (row(False), Control.RANDOM))
    )
    assert failed == "Failed the filter: confidence 0.200 < 0.500."
    assert tied == "Failed the filter: confidence 0.500 >= 0.500, and drawn among those that tie."
    assert control.startswith("Random control: drawn at random to fail")
