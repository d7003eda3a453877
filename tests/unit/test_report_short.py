"""The first page of a report: what is reckoned, against numbers worked out by hand, and what is said in each case."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.arms import ALL_ROWS, RANDOM, RIGHT_ROWS, ArmKind, arm_of, only_compared
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.contrast import Scores, contrast
from burnish.coordinator.recipes.filter.loop import ALONE, MIXED
from burnish.coordinator.recipes.registry import METHODS, SETTINGS
from burnish.coordinator.records import StepRecord
from burnish.report.arms import in_common
from burnish.report.bars import NARROW, flow_bar, loss_bars
from burnish.report.cost import OTHER, cost_of, work_of
from burnish.report.data import BdsRound, FilterRound, MadsRound
from burnish.report.flow import flow_of
from burnish.report.gap import gap_recovered
from burnish.report.next_step import next_step, with_controls
from burnish.report.render import _compare, render
from burnish.report.short_data import Arm, Cost, Flow, Gap, InShort, Outcome
from burnish.report.verdict import verdict
from tests.unit.test_report import DATA


def scores(*losses: float, tokens: int = 1) -> Scores:
    """One sample for each loss, of as many tokens."""
    return {f"h{i}": (loss * tokens, tokens) for i, loss in enumerate(losses)}


def arm(kind: ArmKind, *models: Scores, rows: int = 10) -> Arm:
    losses = [sum(nll for nll, _ in one.values()) / sum(n for _, n in one.values()) for one in models]
    return Arm(kind.value, rows, losses, kind, models)


# ---- what is reckoned


def test_a_contrast_and_its_error_by_hand() -> None:
    # Differences -1, 0, 1, 4 over tokens 1, 1, 2, 4: D = 4 / 8. What is left of each, d - D n: -1.5, -0.5, 0, 2, whose
    # squares are 6.5 in all; the error is sqrt(4 / 3 * 6.5) / 8.
    one = {"a": (1.0, 1), "b": (2.0, 1), "c": (3.0, 2), "d": (9.0, 4), "only here": (50.0, 1)}
    other = {"a": (2.0, 1), "b": (2.0, 1), "c": (2.0, 2), "d": (5.0, 4)}
    found = contrast(one, other)
    assert found is not None
    assert found.difference == pytest.approx(0.5)
    assert found.error == pytest.approx(math.sqrt(4 / 3 * 6.5) / 8)
    assert found.told, "0.5 against 0.368"


def test_a_contrast_of_little() -> None:
    assert contrast({"a": (1.0, 1)}, {"b": (1.0, 1)}) is None
    one = contrast(scores(2.0), scores(1.0))
    assert one is not None
    assert (one.difference, one.error, one.told) == (1.0, None, False)
    same = contrast(scores(1.0, 2.0), scores(1.0, 2.0))
    assert same is not None
    assert (same.difference, same.error, same.told) == (0.0, 0.0, False)


def test_arms_are_judged_by_the_rows_that_all_of_them_have_a_loss_on() -> None:
    easy, hard = {f"e{i}": (1.0, 1) for i in range(9)}, {f"h{i}": (9.0, 1) for i in range(3)}
    worse = {name: (loss + 0.05 + 0.001 * number, 1) for number, (name, (loss, _)) in enumerate(easy.items())}
    arms = [arm(ArmKind.RUN, worse), arm(ArmKind.ALL, easy | hard), arm(ArmKind.RANDOM, easy | hard, easy | hard)]
    assert arms[0].losses[0] < arms[1].losses[0], "of other rows"
    judged = in_common(arms)
    assert [one.losses[0] for one in judged[1:]] == [1.0, 1.0]
    assert judged[0].losses[0] == pytest.approx(arms[0].losses[0])
    assert verdict(judged, held_out=True, finished=True).outcome is Outcome.WORSE
    same = [arm(ArmKind.RUN, easy), arm(ArmKind.ALL, easy)]
    assert in_common(same) is same


def test_the_gap_by_hand() -> None:
    # All rows 3.0, right rows 1.0, the run 1.5 on every sample: three quarters, whatever is drawn.
    found = gap_recovered(scores(*[3.0] * 8), scores(*[1.5] * 8), scores(*[1.0] * 8))
    assert (found.value, found.low, found.high, found.untold) == (0.75, 0.75, 0.75, "")


def test_the_interval_of_a_gap_is_around_it_and_the_same_every_time() -> None:
    every = scores(*(2.0 + 0.1 * (i % 5) for i in range(50)))
    right = scores(*(1.0 + 0.1 * (i % 7) for i in range(50)))
    run = scores(*(1.5 + 0.1 * (i % 3) for i in range(50)))
    found = gap_recovered(every, run, right)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx((110.0 - 79.9) / (110.0 - 64.7))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.2
    assert gap_recovered(every, run, right) == found


@pytest.mark.parametrize(
    "right",
    [scores(1.0, 1.2, 0.9), scores(5.0, 5.0, 5.1), scores(1.5, 0.6, 1.0)],
    ids=["the same", "right rows are worse", "within one error"],
)
def test_where_there_is_no_gap_none_is_told(right: Scores) -> None:
    found = gap_recovered(scores(1.0, 1.2, 0.9), scores(1.0, 1.0, 1.0), right)
    assert found.value is None
    assert "no gap to recover" in found.untold


def test_a_gap_that_some_draws_do_not_have_is_without_bound() -> None:
    every, right = scores(*[1.0] * 8, 9.0, 9.0), scores(*[1.05] * 8, 1.0, 1.0)  # only two tell them apart
    assert contrast(every, right).told  # type: ignore[union-attr]
    found = gap_recovered(every, scores(*[0.9] * 10), right)
    assert found.high == math.inf
    assert gap_recovered(every, scores(*[9.5] * 10), right).low == -math.inf


def test_what_became_of_the_rows() -> None:
    first = [DataRow(name, f"s{name}", "source", None, name) for name in "abcde"]
    last = [
        first[0],
        replace(first[1], sample_hash="new", origin="improve"),
        DataRow("b+d1", "x", "diversify", "b", "b"),
    ]
    flow = flow_of(first, last, aside={"e"})
    assert flow == Flow(kept=1, rewritten=1, aside=1, dropped=2, added=1)
    assert (flow.rows_in, flow.rows_out) == (5, 3)


@given(st.lists(st.sampled_from(["keep", "rewrite", "drop", "aside"]), max_size=20), st.integers(0, 5))
def test_every_row_is_counted_once(fates: list[str], added: int) -> None:
    first = [DataRow(str(i), f"s{i}", "source", None, str(i)) for i in range(len(fates))]
    last = [
        row if fate == "keep" else replace(row, sample_hash="new")
        for row, fate in zip(first, fates, strict=True)
        if fate in ("keep", "rewrite")
    ] + [DataRow(f"n{i}", "x", "diversify", None, "0") for i in range(added)]
    flow = flow_of(first, last, {row.row_id for row, fate in zip(first, fates, strict=True) if fate == "aside"})
    assert (flow.rows_in, flow.rows_out) == (len(first), len(last))
    assert (flow.kept, flow.aside) == (fates.count("keep"), fates.count("aside"))


def step(round_number: int, name: str, seconds: float) -> StepRecord:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return StepRecord(round_number, 0, name, "done", 1, 1, 0, seconds, now, now, {})


def test_what_a_run_cost() -> None:
    config = {"settings": {"rounds": 1}}
    steps = [step(0, "read", 1.0), step(1, "train", 10.0), step(1, "judge", 4.0), step(1, "refine", 5.0)]
    steps += [step(2, "train", 8.0), step(2, "evaluate", 2.0), step(ALL_ROWS, "train", 7.0), step(RANDOM, "train", 3.0)]
    cost = cost_of(steps, "middo", config)
    assert cost.seconds == 40.0
    assert cost.by_work == {"training": 28.0, "scoring": 6.0, "rewriting": 5.0, "reading and deciding": 1.0}
    assert cost.comparing == 10.0
    assert next(iter(cost.by_work)) == "training", "the largest first"
    assert cost_of([step(1, "train", 6.0), step(1, "select", 1.0)], "mads", config).comparing == 6.0


def test_every_step_of_every_recipe_is_some_work() -> None:
    deciding = {"read", "split", "weigh", "choose", "accept", "decide", "filter", "assemble"}
    assert {n for kind in SETTINGS.values() for n in kind.STEPS if work_of(n) == OTHER} == deciding


# ---- which model is which


def test_the_arms_of_every_recipe() -> None:
    config = {"settings": {"rounds": 1}}
    for recipe in METHODS:
        kinds = {number: arm_of(recipe, config, number).kind for number in (0, 2, ALL_ROWS, RIGHT_ROWS, RANDOM + 1)}
        assert list(kinds.values()) == [ArmKind.BASE, ArmKind.RUN, ArmKind.ALL, ArmKind.ORACLE, ArmKind.RANDOM]
    kinds_of = {"bds": (1, 3, 4, 5), "auto": (3, MIXED, ALONE, 43)}
    for recipe, numbers in kinds_of.items():
        assert [arm_of(recipe, config, number).kind.value for number in numbers] == [
            *("other", "mixed", "trusted", "random")
        ]
    assert arm_of("bds", config, 4).name == "the validation set alone"
    assert [arm_of("mads", config, number).number for number in (3, 4, RANDOM + 4)] == [1, 2, 5]
    rounds = {"settings": {"rounds": 3}}
    assert [arm_of("clear", rounds, number).kind.value for number in (1, 2, 3, 4)] == [*["other"] * 3, "run"]
    assert [arm_of("clear", rounds, number).name for number in (1, 3)] == [
        "the rows that passed the filter",
        "the rows that passed the filter in round 3",
    ]
    assert arm_of("middo", rounds, 1).kind is ArmKind.ALL
    assert arm_of("a recipe that is new", config, 2).kind is ArmKind.RUN
    assert [only_compared("mads", config, number) for number in (1, 2, 3)] == [True, False, True]
    assert not only_compared("middo", rounds, 1), "the recipe looks at that model"
    assert [only_compared("auto", config, number) for number in (1, 2, 3, 13, 33, 36, 43, MIXED)] == [
        *(True, *[False] * 5, True, True)
    ]


# ---- what is said

ALL = arm(ArmKind.ALL, scores(3.0, 3.1, 2.9, 3.0), rows=20)
CHANCE = arm(ArmKind.RANDOM, scores(2.8, 2.9, 2.7, 2.8), scores(2.6, 2.7, 2.5, 2.6))


def said(run: Sequence[float], *others: Arm) -> tuple[Outcome, str, str]:
    found = verdict([arm(ArmKind.RUN, scores(*run)), *others], held_out=True, finished=True)
    return found.outcome, found.sentence, found.because


def test_better_than_all_rows_and_than_chance() -> None:
    outcome, sentence, because = said((2.0, 2.1, 1.8, 2.1), ALL, CHANCE)
    assert outcome is Outcome.BETTER
    assert sentence.startswith(
        "It worked: this run's model is better than one trained on all rows, and better than eve"
    )
    assert "as many random rows" in sentence
    assert because.startswith("Its loss is 1.0000 below that of all rows, 24.5 times its standard error (")
    assert "0.6000, 14.7 times its error, below that of the best of the two random controls." in because
    assert because.endswith("One more random control would be below the two random controls one time in three.")


def test_within_the_range_of_chance() -> None:
    outcome, sentence, because = said((2.7, 2.7, 2.7, 2.7), ALL, CHANCE)
    assert outcome is Outcome.CHANCE
    assert sentence.startswith("Not to be told from chance")
    assert "2.7000 lies within the range of the two random controls, 2.6000 to 2.8000" in because
    assert because.endswith("A model trained on all rows is worse.")


@pytest.mark.parametrize(("run", "side"), [((1.6, 3.7, 1.5, 3.4), "below"), ((3.8, 1.9, 3.7, 2.0), "above")])
def test_outside_the_range_of_chance_by_less_than_an_error(run: tuple[float, ...], side: str) -> None:
    outcome, sentence, because = said(run, CHANCE)
    assert outcome is Outcome.CHANCE
    assert "about as good as" in sentence
    assert f"Its loss is 0.0500 {side} that of the nearest of the two random controls" in because
    assert "too little to tell" in because


def test_every_control_has_to_be_told_apart() -> None:
    """The nearest of two is, by a hair on every row; of the other the rows differ so much that it is not."""
    uneven = (2.5, 1.7, 1.9, 2.0)
    outcome, _, because = said((2.0, 2.0, 2.0, 2.0), arm(ArmKind.RANDOM, scores(*[2.01] * 4), scores(*uneven)))
    assert outcome is Outcome.CHANCE
    assert "that of one of the two random controls" in because


def test_worse_than_chance() -> None:
    outcome, sentence, because = said((3.5, 3.6, 3.4, 3.6), ALL, CHANCE)
    assert outcome is Outcome.WORSE
    assert "worse than every model trained on as many random rows" in sentence
    assert because.endswith("A model trained on all rows is better.")


def test_all_rows_kept_is_no_failure() -> None:
    losses = (2.0, 2.1, 1.8, 2.1)
    same = arm(ArmKind.ALL, scores(*losses))
    outcome, sentence, _ = said(losses, same, arm(ArmKind.RANDOM, scores(2.0, 2.1, 1.9, 2.1), scores(*losses)))
    assert outcome is Outcome.KEPT
    assert "all rows were kept" in sentence
    assert said(losses, same)[0] is Outcome.KEPT
    harmed = said(losses, same, arm(ArmKind.BASE, scores(1.0, 1.1, 0.8, 1.1)))
    assert (harmed[0], harmed[2]) == (Outcome.KEPT, "This run's model is worse than the model as it came, too.")


def test_better_than_chance_and_not_than_all_rows() -> None:
    good = arm(ArmKind.ALL, scores(1.0, 1.1, 1.0, 1.2), rows=20)
    outcome, sentence, _ = said((2.0, 2.1, 1.8, 2.1), good, CHANCE)
    assert outcome is Outcome.MIXED
    assert sentence.endswith("and worse than one trained on all rows.")
    like = arm(ArmKind.ALL, scores(2.5, 1.6, 2.3, 1.6), rows=20)
    outcome, sentence, _ = said((2.0, 2.1, 1.8, 2.1), like, CHANCE)
    assert outcome is Outcome.MIXED
    assert sentence.endswith("and not to be told from one trained on all rows.")
    outcome, sentence, _ = said((2.0, 2.1, 1.8, 2.1), CHANCE)
    assert outcome is Outcome.MIXED
    assert "Whether all rows would do better still cannot be told" in sentence


def test_training_that_harmed_is_no_success() -> None:
    untrained = arm(ArmKind.BASE, scores(1.0, 1.1, 0.9, 1.0))
    outcome, sentence, _ = said((2.0, 2.1, 1.8, 2.1), ALL, CHANCE, untrained)
    assert outcome is Outcome.MIXED
    assert sentence.endswith("this run's model is worse than the model as it came.")
    outcome, _, because = said((2.7, 2.7, 2.7, 2.7), ALL, CHANCE, untrained)
    assert outcome is Outcome.CHANCE
    assert because.endswith("This run's model is worse than the model as it came, too.")
    assert "as it came" not in said((2.7, 2.7, 2.7, 2.7), ALL, CHANCE, arm(ArmKind.BASE, scores(*[2.7] * 4)))[2]


def test_controls_that_are_all_rows_are_called_so() -> None:
    orders = replace(CHANCE, rows=20)
    assert "every model trained on all rows in another order" in said((2.0, 2.1, 1.8, 2.1), ALL, orders)[1]
    page = str(loss_bars([arm(ArmKind.BASE, scores(4.0)), ALL, orders]))
    assert "all rows, other orders, 2 times" in page
    page = render(replace(DATA, short=replace(SHORT, arms=[arm(ArmKind.BASE, scores(4.0)), ALL, orders])))
    assert "<b>All rows, other orders</b> show what chance does" in page
    assert "all were trained on 2 times in another order" in page


def test_what_cannot_be_told_is_not() -> None:
    run = arm(ArmKind.RUN, scores(2.0, 2.1))
    for arms, held_out, finished, words in (
        ([run, CHANCE], False, True, "no held-out data were given"),
        ([CHANCE], True, True, "this run trains no model on what it made"),
        ([CHANCE], True, False, "the run has not trained its model yet"),
        ([run], True, True, "nothing was trained to compare it with"),
    ):
        found = verdict(arms, held_out=held_out, finished=finished)
        assert found.outcome is Outcome.UNTOLD
        assert words in found.sentence


def test_without_a_control_all_rows_say_what_they_can() -> None:
    better = said((2.0, 2.1, 1.8, 2.1), ALL)
    assert better[0] is Outcome.UNTOLD
    assert better[1].startswith("This run's model is better than one trained on all rows; whether that is more than ch")
    assert said((2.0, 4.2, 2.0, 4.1), ALL)[1].startswith("This run's model cannot be told from one trained on all rows")
    assert said((4.0, 4.2, 4.0, 4.1), ALL)[:2] == (
        Outcome.WORSE,
        "It did not help: a model trained on all rows, as they came, is better.",
    )


def test_losses_without_samples_only_go_by_the_range() -> None:
    bare = replace(CHANCE, scores=())
    outcome, _, because = said((2.0, 2.1, 1.8, 2.1), bare)
    assert outcome is Outcome.CHANCE, "how sure the difference is cannot be told"
    assert "how far that strays with other held-out rows is not known" in because


def advice(arms: list[Arm], *, recipe: str = "middo", held_out: int = 500, finished: bool = True) -> str:
    found = verdict(arms, held_out=bool(held_out), finished=finished)
    control = with_controls(recipe, SETTINGS[recipe].model_fields)
    return next_step(found, arms, control=control, held_out=held_out, finished=finished)


def test_what_to_do_next() -> None:
    run = arm(ArmKind.RUN, scores(2.0, 2.1, 1.8, 2.1))

    assert "Repeat the same command: it goes on" in advice([], finished=False)
    assert "--holdout" in advice([run, ALL], held_out=0)
    assert "Train on the result" in advice([ALL])
    assert "Repeat the same command with --compare: models trained on random rows" in advice([run, ALL])
    for recipe in ("filter", "auto", "bds", "bmo"):  # by --no-compare it would compare nothing again
        assert "same command with --compare and --random-subsets 3 in a new f" in advice([run, ALL], recipe=recipe)
    assert "same command with --random-subsets 3 in a new folder (--out): models" in advice([run, ALL], recipe="mads")
    assert "Use the result" in advice([run, ALL, CHANCE])
    alike = replace(run, kind=ArmKind.ALL, rows=20)
    assert "Train on all rows where they can be afforded" in advice([run, alike, CHANCE])
    assert "Train on all rows as they are" in advice([run, replace(run, kind=ArmKind.ALL), CHANCE])
    assert "train on them as well" in advice([run, CHANCE])
    poor, middling = (arm(ArmKind.RUN, scores(*[loss] * 4)) for loss in (3.5, 2.7))
    assert "Do not use this result: train on all rows" in advice([poor, ALL, CHANCE])
    worst = arm(ArmKind.ALL, scores(*[4.0] * 4), rows=20)
    assert "as many rows drawn at random make a better model. All rows make a worse" in advice([poor, worst, CHANCE])
    assert "Try other settings" in advice([middling, ALL, CHANCE])
    assert "only 40 held-out rows" in advice([middling, ALL, CHANCE], held_out=40)
    assert "--learning-rate" in advice([run, ALL, CHANCE, arm(ArmKind.BASE, scores(1.0, 1.1, 0.9, 1.0))])


def test_what_trusted_rows_do_without_the_recipe_is_told_where_it_is_better() -> None:
    run = arm(ArmKind.RUN, scores(2.0, 2.1, 1.8, 2.1))
    mixed, alone = arm(ArmKind.MIXED, scores(*[1.9] * 4)), arm(ArmKind.TRUSTED, scores(*[1.5] * 4))
    alone = replace(alone, name="the trusted rows alone")
    said = verdict([run, ALL, CHANCE, mixed, alone], held_out=True, finished=True)
    assert said.outcome is Outcome.BETTER, "the run is what it is"
    assert "A model trained on the trusted rows alone is better than this run's: its loss is 0.5000, " in said.because
    assert said.because.endswith(" below it.")
    assert "Train on the trusted rows alone instead" in advice([run, ALL, CHANCE, mixed, alone])
    worse = replace(alone, losses=[2.5], scores=[{name: (2.5 * n, n) for name, (_, n) in alone.scores[0].items()}])
    assert "Use the result" in advice([run, ALL, CHANCE, worse])
    best = arm(ArmKind.ALL, scores(*[1.4] * 4), rows=20)
    assert "trusted" not in advice([run, best, CHANCE, mixed, alone]), "all rows do better still"
    unsure = replace(alone, losses=[1.4], scores=[scores(0.1, 3.0, 1.0, 1.5)])
    assert "Train on the trusted rows alone" not in advice([run, ALL, CHANCE, unsure])
    poor, base = arm(ArmKind.RUN, scores(*[3.5] * 4)), arm(ArmKind.BASE, scores(*[2.0] * 4))
    assert "Train on the trusted rows alone instead" in advice([poor, ALL, CHANCE, base, alone])
    assert "trained on trusted rows alone" in str(loss_bars([arm(ArmKind.BASE, scores(4.0)), run, alone]))


# ---- what is seen

SHORT = InShort(
    flow=Flow(kept=1200, rewritten=30, aside=0, dropped=40, added=5),
    arms=[arm(ArmKind.BASE, scores(4.0)), ALL, CHANCE, arm(ArmKind.RUN, scores(2.0, 2.1, 1.8, 2.1))],
    held_out=4,
    verdict=verdict([arm(ArmKind.RUN, scores(2.0, 2.1, 1.8, 2.1)), ALL, CHANCE], held_out=True, finished=True),
    gap=None,
    cost=Cost(90.0, {"training": 60.0, "scoring": 30.0}, 45.0),
    next_step="Give data (--holdout).",
)


def test_the_bars_are_as_long_as_the_losses_fall() -> None:
    page = str(loss_bars(SHORT.arms))
    widths = {style: float(width) for width, style in re.findall(r'width="([\d.]+)" height="20" class="(\w+)"', page)}
    assert widths["run"] == pytest.approx(2 * widths["peer"] * 2 / 2.6, rel=0.02), "2.0 against 1.3 of 4.0"
    assert "2.000 (50.0% lower)" in page
    assert "4.000</text>" in page
    assert page.count('class="range"') == 1
    assert "narrow" in str(loss_bars(SHORT.arms, NARROW))
    assert loss_bars([ALL]) is None, "without the base model there is nothing to begin at"
    worse = str(loss_bars([arm(ArmKind.BASE, scores(2.0)), arm(ArmKind.RUN, scores(3.0))]))
    assert 'class="run worse"' in worse
    assert "(50.0% higher)" in worse


def test_the_bar_of_the_rows_names_what_is_there() -> None:
    page = str(flow_bar(Flow(3, 0, 0, 1, 0)))
    assert re.findall(r"</i>([^<]*)", page) == ["3 kept as they were", "1 dropped"]
    assert page.count("<rect") == 2


def test_the_first_page_says_it_in_words() -> None:
    page = render(replace(DATA, short=SHORT))
    assert "1,270 rows (examples for the model to learn from) went in, 1,235 came out: 1,200 as they were" in page
    assert "30 rewritten, 5 added; 40 dropped" in page
    assert 'class="verdict better"' in page
    assert "how much the answers surprise a model in 4 held-out rows" in page
    assert "drawn blindly from those that went in, 2 times" in page
    assert "1 min 30 s of work, of which 45.0 s" in page
    assert '(<code class="flag">--holdout</code>)' in page
    assert "Right rows only" not in page
    assert "Gap recovered" not in page
    assert "was there to gain" not in page
    assert page.index("In short") < page.index('class="tiles"')
    assert "In short" not in render(DATA)


def test_the_gap_is_told_or_said_why_not() -> None:
    def page(gap: Gap) -> str:
        return render(replace(DATA, short=replace(SHORT, gap=gap)))

    assert "Gap recovered: 62%</b> (95% interval over the held-out rows: 40% to 80%)" in page(Gap(0.62, 0.4, 0.8))
    assert "−10%</b> (95% interval over the held-out rows: no bound to 5%)" in page(Gap(-0.1, -math.inf, 0.05))
    assert "is not told: there is none" in page(Gap(untold="there is none"))


def test_an_unfinished_run_has_no_rows_out() -> None:
    page = render(replace(DATA, short=replace(SHORT, flow=None, arms=[])))
    assert "4 rows (examples for the model to learn from) went in; what comes out is not decided yet." in page
    assert 'class="losses' not in page


_MEASURED: dict[str, Any] = {"thresholds": [], "signals": {}, "failures": [], "timings": []}
_ROUND: dict[str, Any] = {"number": 1, "num_rows": 20, "actions": {"keep": 20}, **_MEASURED}
_COMPARED = {
    "filter": FilterRound(**_ROUND, left_out=0, tried=[], dropped=[], weighted=True),
    "mads": MadsRound(
        **_ROUND,
        curve=None,
        random_curves=[],
        num_features=0,
        length_correlation=None,
        hub_share=0.0,
        map=None,
        picked=[],
    ),
    "bds": BdsRound(**_ROUND, snapshots=[], weighed=[]),
}


@pytest.mark.parametrize("recipe", sorted(_COMPARED))
def test_how_alike_models_were_trained_is_told_as_it_was(recipe: str) -> None:
    def page(run_rows: int) -> str:
        run, chance = arm(ArmKind.RUN, scores(2.0, 2.1), rows=run_rows), arm(ArmKind.RANDOM, scores(2.0), rows=run_rows)
        others = [arm(ArmKind.MIXED, scores(2.0), rows=26), arm(ArmKind.TRUSTED, scores(2.0), rows=6)]
        everything = [] if recipe == "bds" else [arm(ArmKind.ALL, scores(2.0), rows=20)]
        arms = [run, *everything, *others, chance]
        config = {"settings": {"selection_epochs": 3.0, "among": 0}}
        data = replace(DATA, recipe=recipe, rounds=[_COMPARED[recipe]], config=config)
        return " ".join(render(replace(data, short=replace(SHORT, arms=arms))).split())

    some, every = page(10), page(20)
    assert "with the same settings and seed" in some
    assert "no random subset could be drawn" not in some
    assert "<td>random</td>" in some
    assert "a seed of its own" in every
    assert "<td>all rows, other orders</td>" in every
    assert "random subsets" not in every
    assert "were trained with the same settings and seed: without" not in every
    if recipe == "filter":
        for one in (some, every):
            assert "got as many as what was kept. What was kept counted by its rank; all other models" in one


@pytest.mark.parametrize("recipe", sorted(METHODS))
def test_every_recipe_has_the_first_page(recipe: str) -> None:
    assert "In short" in render(replace(DATA, recipe=recipe, rounds=[], short=SHORT))


def test_long_texts_are_compared_in_good_time() -> None:
    words = [f"word{number}" for number in range(3000)]
    changed = [word if number % 10 else f"{word}x" for number, word in enumerate(words)]
    began = time.process_time()
    before, after = _compare(" ".join(words), " ".join(changed))
    assert time.process_time() - began < 5  # with what stands everywhere looked for, minutes
    assert before.count("<del>") > 200
    assert after.count("<ins>") > 200
