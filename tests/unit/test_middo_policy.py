"""Middo's policy: the published formulas on numbers worked out by hand, and what must hold for any data."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.policy.assembly import DataRow, RowIds, assemble, assemble_compat
from burnish.coordinator.policy.middo import (
    RATINGS,
    Action,
    Axis,
    Control,
    Decision,
    Overlap,
    PolicySettings,
    RowSignals,
    Unparseable,
    decide,
    fold_neighbors,
    quality,
)
from burnish.coordinator.policy.thresholds import Rule

ONLY_HARD = PolicySettings(axes=frozenset({Axis.HARD}))
ONLY_SPARSE = PolicySettings(axes=frozenset({Axis.SPARSE}))
ONLY_QUALITY = PolicySettings(axes=frozenset({Axis.LOW_QUALITY}))


def hard_rows(pre: list[float | None], post: list[float | None]) -> list[RowSignals]:
    return [
        RowSignals(f"r{i}", f"h{i}", loss_pre=a, loss_post=b) for i, (a, b) in enumerate(zip(pre, post, strict=True))
    ]


def sparse_rows(cosines: list[float]) -> list[RowSignals]:
    return [RowSignals(f"r{i}", f"h{i}", neighbors=(("x", c), ("y", c))) for i, c in enumerate(cosines)]


def rated(value: float | None) -> dict[tuple[str, str], float | None]:
    return dict.fromkeys(RATINGS, value)


def quality_rows(values: list[float | None]) -> list[RowSignals]:
    return [RowSignals(f"r{i}", f"h{i}", ratings=rated(value)) for i, value in enumerate(values)]


def selected(plan_decisions: tuple[Decision, ...], axis: Axis) -> list[str]:
    return [d.row_id for d in plan_decisions if axis in d.axes]


def test_hard_needs_both_losses_above_mean_plus_sigma() -> None:
    # pre: mean 2, population sigma sqrt(4) = 2 -> tau 4; post: mean 1, sigma 1 -> tau 2
    plan = decide(hard_rows([1, 1, 1, 1, 6], [0.5, 0.5, 0.5, 0.5, 3]), ONLY_HARD)
    pre, post = plan.thresholds
    assert (pre.mean, pre.std, pre.tau) == (2.0, 2.0, 4.0)
    assert (post.mean, post.std, post.tau) == (1.0, 1.0, 2.0)
    assert selected(plan.decisions, Axis.HARD) == ["r4"]
    assert plan.decisions[4].actions == (Action.SIMPLIFY,)
    assert plan.decisions[4].reasons[0].startswith("Too hard: loss before training 6.000 > 4.000 (mean 2.000 + 1 x std")
    only_pre = decide(hard_rows([1, 1, 1, 1, 6], [1, 1, 1, 1, 1]), ONLY_HARD)
    assert selected(only_pre.decisions, Axis.HARD) == []


def test_comparisons_are_strict() -> None:
    # Two values: mean 1, population sigma 1, so the larger one lies exactly on tau = 2.
    plan = decide(hard_rows([0, 2], [0, 2]), ONLY_HARD)
    assert plan.thresholds[0].tau == 2.0
    assert selected(plan.decisions, Axis.HARD) == []
    plan = decide(sparse_rows([0.0, 1.0]), ONLY_SPARSE)
    assert plan.thresholds[0].tau == 0.0
    assert selected(plan.decisions, Axis.SPARSE) == []


def test_sparse_uses_the_population_and_quality_the_sample_deviation() -> None:
    values = [0.1, 0.9, 0.9, 0.9, 0.9]
    sparse = decide(sparse_rows(values), ONLY_SPARSE)
    (line,) = sparse.thresholds
    assert line.std == pytest.approx(0.32)
    assert selected(sparse.decisions, Axis.SPARSE) == ["r0"]
    low = decide(quality_rows([1, 9, 9, 9, 9]), ONLY_QUALITY)
    (line,) = low.thresholds
    assert line.std == pytest.approx(math.sqrt(5 * 3.2**2 / 4))
    assert selected(low.decisions, Axis.LOW_QUALITY) == ["r0"]
    population = replace(ONLY_QUALITY, quality=Rule(1.0, None, 0))
    assert decide(quality_rows([1, 9, 9, 9, 9]), population).thresholds[0].std == pytest.approx(3.2)


def test_constant_values_select_nothing_at_any_m() -> None:
    """Though the mean of three 0.1 is above 0.1 as a double, and so would the line be."""
    for m in (0.0, 0.4, 1.0):
        plan = decide(quality_rows([0.1] * 3), replace(ONLY_QUALITY, quality=Rule(m, None, 0)))
        assert selected(plan.decisions, Axis.LOW_QUALITY) == []


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf])
def test_a_missing_value_is_counted_and_kept_out(bad: float | None) -> None:
    plan = decide(hard_rows([1, 1, 1, 1, 6, bad], [0.5, 0.5, 0.5, 0.5, 3, 9]), ONLY_HARD)
    assert plan.thresholds[0].tau == 4.0
    assert (plan.thresholds[0].num_values, plan.thresholds[0].num_excluded) == (5, 1)
    assert plan.thresholds[1].num_excluded == 0
    assert plan.decisions[5].actions == (Action.KEEP,)
    assert plan.decisions[5].signals["loss_pre"] is None
    assert "Not known, so not judged by it: loss_pre." in plan.decisions[5].reasons


def test_without_any_value_nothing_is_selected_and_no_line_is_drawn() -> None:
    plan = decide(hard_rows([None, None], [1, 2]), ONLY_HARD)
    assert plan.thresholds[0].tau is None
    assert plan.thresholds[0].num_excluded == 2
    assert all(d.actions == (Action.KEEP,) for d in plan.decisions)
    lone = decide(quality_rows([3.0]), ONLY_QUALITY)  # one value has no sample deviation
    assert lone.thresholds[0].tau is None


def test_own_copies_are_nearest_and_neighbours_count_as_often_as_they_stand() -> None:
    copies = Counter({"a": 1, "b": 2, "c": 3})
    near = (("b", 0.9), ("c", 0.5))
    assert fold_neighbors(RowSignals("r", "a", neighbors=near), copies, 3) == (("b", 0.9), ("b", 0.9), ("c", 0.5))
    assert fold_neighbors(RowSignals("r", "c", neighbors=(("b", 0.9),)), copies, 2) == (("c", 1.0), ("c", 1.0))
    assert fold_neighbors(RowSignals("r", "b", neighbors=(("a", 0.9),)), copies, 2) == (("b", 1.0), ("a", 0.9))
    assert fold_neighbors(RowSignals("r", "a", neighbors=None), copies, 2) == ()


def test_quality_is_the_mean_over_dimensions_of_the_mean_over_targets() -> None:
    ratings: dict[tuple[str, str], float | None] = dict(zip(RATINGS, [8, 6, 4, 2, 10, 0], strict=True))
    assert quality(ratings, Unparseable.EXCLUDE) == pytest.approx((7 + 3 + 5) / 3)
    ratings["clarity", "prompt"] = None
    assert quality(ratings, Unparseable.EXCLUDE) is None
    assert quality(ratings, Unparseable.ZERO) == pytest.approx((3 + 3 + 5) / 3)
    assert quality(ratings, Unparseable.PARTIAL) == pytest.approx((6 + 3 + 5) / 3)
    ratings["clarity", "response"] = None
    assert quality(ratings, Unparseable.PARTIAL) == pytest.approx((3 + 5) / 2)
    assert quality({}, Unparseable.ZERO) is None
    assert quality(rated(None), Unparseable.PARTIAL) is None


def both_rows() -> list[RowSignals]:
    """r4 is too hard and of low quality."""
    rows = hard_rows([1, 1, 1, 1, 6], [1, 1, 1, 1, 6])
    return [replace(row, ratings=rated(9.0 if i < 4 else 1.0)) for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("overlap", "actions"),
    [
        (Overlap.BOTH, (Action.SIMPLIFY, Action.IMPROVE)),
        (Overlap.HARD_FIRST, (Action.SIMPLIFY,)),
        (Overlap.QUALITY_FIRST, (Action.IMPROVE,)),
    ],
)
def test_a_row_in_both_sets_is_treated_as_the_policy_says(overlap: Overlap, actions: tuple[Action, ...]) -> None:
    settings = PolicySettings(axes=frozenset({Axis.HARD, Axis.LOW_QUALITY}), overlap=overlap)
    decision = decide(both_rows(), settings).decisions[4]
    assert decision.axes == (Axis.HARD, Axis.LOW_QUALITY)
    assert decision.actions == actions


@given(
    st.lists(st.floats(0, 10).map(lambda x: round(x, 1)), min_size=1, max_size=40),
    st.floats(0.01, 1),
)
def test_a_share_is_never_passed_and_only_ties_stay_short_of_it(values: list[float], share: float) -> None:
    settings = replace(ONLY_SPARSE, sparse=Rule(1.0, share, 0))
    plan = decide(sparse_rows(values), settings)
    (line,) = plan.thresholds
    count = len(selected(plan.decisions, Axis.SPARSE))
    wanted = int(share * len(values) + 1e-9)
    if line.std:  # equal values can't be told apart at all
        assert count <= wanted
        assert count + line.num_tied == wanted
    chosen = {d.row_id for d in plan.decisions if Axis.SPARSE in d.axes}
    inside = [v for i, v in enumerate(values) if f"r{i}" in chosen]
    outside = [v for i, v in enumerate(values) if f"r{i}" not in chosen]
    assert not inside or not outside or max(inside) < min(outside)


def test_a_share_of_hard_rows_ranks_by_the_nearer_signal() -> None:
    pre, post = [1.0, 2.0, 3.0, 4.0, 5.0], [5.0, 1.0, 2.0, 4.0, 4.5]
    plan = decide(hard_rows(pre, post), replace(ONLY_HARD, loss=Rule(9.0, 0.4, 0)))
    assert selected(plan.decisions, Axis.HARD) == ["r3", "r4"]
    assert plan.thresholds[0].m == plan.thresholds[1].m
    assert plan.thresholds[0].share == 0.4


def test_the_budget_cuts_the_least_sparse_additions_and_says_so() -> None:
    rows = sparse_rows([0.1, 0.2, *[0.9] * 10])
    settings = replace(ONLY_SPARSE, max_rows=13)
    plan = decide(rows, settings)
    assert plan.decisions[0].actions == (Action.DIVERSIFY,)
    assert plan.decisions[1].actions == (Action.KEEP,)
    assert plan.decisions[1].axes == (Axis.SPARSE,)
    assert "the budget of 13 rows is spent" in plan.decisions[1].reasons[-1]
    free = decide(rows, replace(settings, max_rows=1))
    assert all(d.actions == (Action.KEEP,) for d in free.decisions)  # rows that are there are never dropped


def test_the_random_control_takes_as_many_rows_per_action_and_depends_on_the_seed_only() -> None:
    rows = [
        replace(row, neighbors=(("x", c), ("y", c)))
        for row, c in zip(
            hard_rows([1.0] * 30 + [6.0] * 4, [1.0] * 30 + [6.0] * 4), [0.9] * 20 + [0.1] * 3 + [0.9] * 11, strict=True
        )
    ]
    settings = PolicySettings(axes=frozenset({Axis.HARD, Axis.SPARSE}), seed=3)
    real = decide(rows, settings)
    control = replace(settings, control=Control.RANDOM)
    drawn = decide(rows, control)

    def touched(decisions: tuple[Decision, ...]) -> Counter[tuple[Action, ...]]:
        return Counter(d.actions for d in decisions)

    assert touched(drawn.decisions) == touched(real.decisions)
    assert drawn.decisions != real.decisions
    assert decide(rows, control) == drawn
    assert decide(rows, replace(control, seed=4)) != drawn
    assert decide(rows, control, round_number=2) != drawn
    shuffled = decide(rows[::-1], control)
    assert {d.row_id: d.actions for d in shuffled.decisions}.keys() == {
        d.row_id: d.actions for d in drawn.decisions
    }.keys()
    assert touched(shuffled.decisions) == touched(drawn.decisions)
    assert all(d.hints for d in drawn.decisions if Action.DIVERSIFY in d.actions)


def test_hints_are_distinct_neighbours_but_for_compat() -> None:
    rows = [RowSignals("r0", "a", neighbors=(("b", 0.1), ("c", 0.05)))]
    rows += [RowSignals(f"b{i}", "b", neighbors=(("c", 0.9), ("a", 0.1))) for i in range(6)]
    rows += [RowSignals(f"c{i}", "c", neighbors=(("b", 0.9), ("a", 0.1))) for i in range(6)]
    plain = decide(rows, ONLY_SPARSE).decisions[0]
    compat = decide(rows, replace(ONLY_SPARSE, compat=True)).decisions[0]
    assert plain.actions == compat.actions == (Action.DIVERSIFY,)
    assert plain.hints == ("b", "c")
    assert compat.hints == ("b", "b")


# ---- the next data set


def source_rows(count: int) -> list[DataRow]:
    return [DataRow(f"r{i}", f"h{i}", "source", None, f"r{i}") for i in range(count)]


def decision(row_id: str, *actions: Action) -> Decision:
    axis = {Action.SIMPLIFY: Axis.HARD, Action.IMPROVE: Axis.LOW_QUALITY, Action.DIVERSIFY: Axis.SPARSE}
    return Decision(row_id, tuple(axis[a] for a in actions if a in axis), actions, {}, ())


S, I, D, K = Action.SIMPLIFY, Action.IMPROVE, Action.DIVERSIFY, Action.KEEP  # noqa: E741
ACTIONS = [(K,), (S,), (I,), (D,), (S, I), (S, I, D), (I, D)]


def test_replaced_rows_keep_their_place_and_new_rows_go_to_the_end() -> None:
    rows = source_rows(5)
    actions = [(D,), (S,), (S, I), (K,), (I,)]
    decisions = [decision(row.row_id, *a) for row, a in zip(rows, actions, strict=True)]
    outcomes = {("r0", D): "new", ("r1", S): "easy", ("r2", S): "easy2", ("r2", I): "good2", ("r4", I): None}
    after = assemble(rows, decisions, outcomes, RowIds((r.row_id for r in rows), numbers=False), round_number=1)
    assert [(r.row_id, r.sample_hash, r.origin) for r in after] == [
        ("r0", "h0", "source"),
        ("r1", "easy", "simplify"),
        ("r2", "easy2", "simplify"),
        ("r3", "h3", "source"),
        ("r4", "h4", "source"),  # its rewrite was rejected
        ("r0+d1", "new", "diversify"),
        ("r2+i1", "good2", "improve"),
    ]
    assert after[5].parent_row_id == "r0"
    assert after[6].source_row_id == "r2"


def test_compat_assembles_in_the_published_order() -> None:
    rows = source_rows(6)
    actions = [(D,), (S,), (S, I), (K,), (I,), (K,)]
    decisions = [decision(row.row_id, *a) for row, a in zip(rows, actions, strict=True)]
    outcomes = {("r0", D): "new", ("r1", S): "easy1", ("r2", S): "easy2", ("r2", I): "good2", ("r4", I): "good4"}
    keys = [("p0", "a"), ("p1", "a"), ("p2", "a"), ("p3", "a"), ("p4", "a"), ("p3", "a")]  # r5 repeats r3
    ids = RowIds((r.row_id for r in rows), numbers=False)
    after = assemble_compat(rows, decisions, outcomes, ids, round_number=1, keys=keys)
    assert [r.sample_hash for r in after] == ["h0", "h3", "easy1", "easy2", "new", "good2", "good4"]
    assert len({r.row_id for r in after}) == len(after)
    # |D'| = |D| + |H and Q| + |S| - duplicates
    assert len(after) == 6 + 1 + 1 - 1


def test_compat_keys_can_bring_back_a_record_that_was_selected() -> None:
    """As published: the intersection is one of keys, so two different records with the same key shield each other."""
    rows = source_rows(2)
    decisions = [decision("r0", S), decision("r1", I)]
    outcomes = {("r0", S): "easy", ("r1", I): "good"}
    ids = RowIds((r.row_id for r in rows), numbers=False)
    after = assemble_compat(rows, decisions, outcomes, ids, round_number=1, keys=[("p", "a"), ("p", "a")])
    assert [r.sample_hash for r in after] == ["h1", "easy", "good"]
    assert len({r.row_id for r in after}) == 3


@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_sizes_and_ids_add_up_for_any_decisions(actions: list[tuple[Action, ...]], random: object) -> None:
    rows = source_rows(len(actions))
    decisions = [decision(row.row_id, *a) for row, a in zip(rows, actions, strict=True)]
    asked = [(d.row_id, a) for d in decisions for a in d.actions if a is not K]
    outcomes = {key: None if random.random() < 0.3 else f"new-{key[0]}-{key[1]}" for key in asked}  # type: ignore[attr-defined]
    ours = assemble(rows, decisions, outcomes, RowIds((r.row_id for r in rows), numbers=False), round_number=2)
    made = sum(value is not None for value in outcomes.values())
    replaced = sum(any(outcomes.get((d.row_id, a)) for a in (S, I)) for d in decisions)
    assert len(ours) == len(rows) + made - replaced
    assert len({row.row_id for row in ours}) == len(ours)
    assert [row.row_id for row in ours[: len(rows)]] == [row.row_id for row in rows]
    keys = [(row.row_id, "") for row in rows]
    ids = RowIds((r.row_id for r in rows), numbers=False)
    theirs = assemble_compat(rows, decisions, outcomes, ids, round_number=2, keys=keys)
    assert len(theirs) == len(rows) + made - replaced
    assert {row.row_id for row in rows} <= {row.row_id for row in theirs}, "who has no replacement stays"


def test_new_ids_follow_the_source() -> None:
    numbers = RowIds(["1", "7", "3"], numbers=True)
    assert [numbers.new("1", D, 1), numbers.new("1", D, 2)] == ["8", "9"]
    words = RowIds(["a", "a+d1"], numbers=False)
    assert words.new("a", D, 1) == "a+d1'"
