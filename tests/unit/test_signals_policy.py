"""What is measured of a row as one number, what follows for rows, and folds; numbers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.folds import assign_folds
from burnish.coordinator.policy.signals import (
    Features,
    Scored,
    Signal,
    among_neighbours,
    rank_rows,
    rank_weights,
    trusted_verdict,
    value_of,
    weakest_nll,
)
from burnish.coordinator.policy.verdict import Action, Unscored

# Three tokens of probability 1/2, 1/4, 1/8: 6 log 2 nats in all; 12 log 2 without the prompt; 1/2 each by a fold model.
LOG2 = math.log(2)
ROW = Features(
    num_tokens=3,
    mean_nll=2 * LOG2,
    sum_nll=6 * LOG2,
    max_nll=3 * LOG2,
    mean_probability=7 / 24,
    unconditional_nll=4 * LOG2,
    ifd_ratio=0.5,
    pmi_mean=2 * LOG2,
    cross_mean_nll=LOG2,
    cross_sum_nll=3 * LOG2,
    cross_max_nll=1.5 * LOG2,
    calibrated_odds=0.75,
)
VALUES = {
    Signal.LENGTH: 3,
    Signal.LOSS: -2 * LOG2,
    Signal.TOTAL_LOSS: -6 * LOG2,
    Signal.WEAKEST: -3 * LOG2,
    Signal.IFD: 0.5,
    Signal.PMI: 2 * LOG2,
    Signal.CROSS_LOSS: -LOG2,
    Signal.CROSS_GAIN: LOG2,
    Signal.CROSS_WEAKEST: -1.5 * LOG2,
    Signal.CALIBRATED: 0.75,
}


@pytest.mark.parametrize("signal", list(Signal))
def test_a_signal_is_what_its_formula_says(signal: Signal) -> None:
    assert value_of(signal, ROW) == pytest.approx(VALUES[signal])
    assert value_of(signal, Features()) is None


def test_a_row_is_compared_with_its_neighbours() -> None:
    values = {"a": -1.0, "b": -2.0, "c": -9.0, "d": -10.0, "e": None, "f": -3.0}
    near = {"a": ["b", "f"], "b": ["a", "f"], "c": ["d"], "d": ["c", "e"], "e": ["a"]}
    assert among_neighbours(values, near) == {"a": 1.5, "b": 0.0, "c": 1.0, "d": -1.0, "e": None, "f": None}


def test_a_prompt_that_makes_the_response_less_likely_goes_first() -> None:
    easy, hard, useless, harmful = (Features(ifd_ratio=ratio) for ratio in (0.2, 0.99, 1.0, 1.5))
    values = [value_of(Signal.IFD, row) for row in (hard, easy, useless, harmful)]
    assert values == [0.99, 0.2, -1.0, -1.5]


def test_a_value_that_is_no_number_is_none() -> None:
    assert value_of(Signal.LOSS, Features(mean_nll=math.inf)) is None
    assert value_of(Signal.PMI, Features(pmi_mean=math.nan)) is None
    assert Features(num_tokens=3, mean_nll=math.inf).known() == {"num_tokens": 3.0}
    assert Features(**ROW.known()) == ROW
    assert weakest_nll(0.125) == pytest.approx(3 * LOG2)
    assert weakest_nll(0.0) == pytest.approx(744.44, abs=0.01), (
        "finite: such a row is the worst, not one without a value"
    )
    assert weakest_nll(None) is None


def scored(values: dict[str, float | None]) -> list[Scored]:
    return [Scored(name, value, Features(mean_nll=value), "TOO_LONG") for name, value in values.items()]


def test_the_best_share_is_kept_and_every_row_has_its_reason() -> None:
    rows = scored({"a": 0.1, "b": 0.9, "c": None, "d": 0.5, "e": -2.0})
    line, verdicts = rank_rows(Signal.PMI, rows, keep=0.5, seed=0)
    assert (line.signal, line.tau, line.num_values, line.num_excluded) == ("pmi", 0.5, 4, 1)
    assert {one.row_id: one.actions for one in verdicts} == {
        "a": (Action.DROP,),
        "b": (Action.KEEP,),
        "c": (Action.UNSCORED,),
        "d": (Action.KEEP,),
        "e": (Action.DROP,),
    }
    assert verdicts[0].reasons == ("Number 3 of 4 by pmi (0.1000); 2 are kept.",)
    assert verdicts[0].signals == {"pmi": 0.1, "rank": 3.0, "mean_nll": 0.1}
    assert verdicts[0].axes == ("low_value",)
    assert verdicts[2].reasons == ("No pmi could be had (TOO_LONG); keep it.",)
    _, strict = rank_rows(Signal.PMI, rows, keep=0.5, seed=0, unscored=Unscored.DROP)
    assert strict[2].actions == (Action.DROP,)
    assert trusted_verdict(DataRow("t", "h", "source", None, "t")).actions == (Action.TRUSTED,)


def test_a_reason_says_what_the_value_is_made_of() -> None:
    row = Scored("a", LOG2, ROW, fold=2)
    _, (crossed,) = rank_rows(Signal.CROSS_GAIN, [row], keep=1, seed=0)
    assert crossed.reasons[1] == (
        "Its loss is 1.386 under the base model, 0.693 under that of fold 2, which did not see it."
    )
    _, (useless,) = rank_rows(Signal.IFD, [Scored("a", -1.25, Features(ifd_ratio=1.25))], keep=1, seed=0)
    assert useless.reasons[1] == "Its IFD is 1.250: with its prompt the response is no likelier than without."


@given(count=st.integers(1, 60), keep=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_rows_that_tie_are_drawn_by_seed_and_as_many_are_kept_as_asked_for(count: int, keep: float, seed: int) -> None:
    rows = scored({f"r{number}": float(number % 2) for number in range(count)})
    _, verdicts = rank_rows(Signal.PMI, rows, keep, seed)
    kept = [one for one in verdicts if one.actions == (Action.KEEP,)]
    assert len(kept) == count - int((1 - keep) * count + 1e-9)
    assert sorted(one.signals["rank"] for one in verdicts) == [float(place) for place in range(1, count + 1)]
    assert {one.signals["rank"] for one in kept} == {float(place) for place in range(1, len(kept) + 1)}
    _, other = rank_rows(Signal.PMI, list(reversed(rows)), keep, seed)
    assert {one.row_id: one.actions for one in other} == {one.row_id: one.actions for one in verdicts}


def test_weights_fall_with_the_rank_to_a_quarter_and_have_mean_one() -> None:
    # 1, 0.625 and 0.25 over their mean; the row without a value counts 1.
    assert rank_weights({"low": 0.1, "high": 9.0, "mid": 0.2, "none": None}) == pytest.approx(
        {"low": 0.4, "high": 1.6, "mid": 1.0, "none": 1.0}
    )
    # Those that tie share the mean of places 1 and 2 of 0..3: 1 - 0.75 / 2.
    tied = rank_weights({"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0})
    assert tied == pytest.approx({"a": 1.6, "b": 1.0, "c": 1.0, "d": 0.4})
    assert rank_weights({"only": 0.5}) == {"only": 1.0}
    assert rank_weights({}) == {}


def row(number: int) -> DataRow:
    return DataRow(f"r{number}", f"h{number}", "source", None, f"r{number}")


@given(counts=st.lists(st.integers(1, 4), min_size=2, max_size=12), folds=st.integers(2, 10), seed=st.integers(0, 99))
def test_rows_with_the_same_prompt_are_in_the_same_fold_and_folds_are_even(
    counts: list[int], folds: int, seed: int
) -> None:
    owners = [f"p{number}" for number, count in enumerate(counts) for _ in range(count)]
    rows = [row(number) for number in range(len(owners))]
    prompts = {f"h{number}": owner for number, owner in enumerate(owners)}
    if folds > len(counts):
        with pytest.raises(ValueError, match=f"{len(counts)} different prompts cannot be divided into {folds} folds"):
            assign_folds(rows, prompts, folds, seed)
        return
    found = assign_folds(rows, prompts, folds, seed)
    assert sorted(one.row_id for fold in found for one in fold) == sorted(one.row_id for one in rows)
    seen = Counter(prompt for fold in found for prompt in {prompts[one.sample_hash] for one in fold})
    assert set(seen.values()) == {1}
    sizes = [len(fold) for fold in found]
    assert max(sizes) - min(sizes) <= max(counts)
    assert assign_folds(rows, prompts, folds, seed) == found


def test_another_seed_makes_other_folds() -> None:
    rows = [row(number) for number in range(20)]
    prompts = {one.sample_hash: one.sample_hash for one in rows}
    one, other = (assign_folds(rows, prompts, 4, seed) for seed in (0, 1))
    assert [len(fold) for fold in one] == [5] * 4
    assert one != other


def test_outliers_go_however_many_there_are() -> None:
    def kept(values: list[float | None], signal: Signal = Signal.LENGTH) -> tuple[float | None, list[bool]]:
        rows = [Scored(str(place), value, Features()) for place, value in enumerate(values)]
        line, verdicts = rank_rows(signal, rows, keep=0.7, seed=0, outliers=3.5)
        return line.tau, [one.actions != (Action.DROP,) for one in verdicts]

    usual = [float(value) for value in range(-5, 6)]  # median 0, median distance 3
    assert kept(usual) == (pytest.approx(-3.5 * 1.4826 * 3), [True] * 11)
    line, stay = kept([*usual, -16.0, -17.0, None])
    assert line == pytest.approx(-1 - 3.5 * 1.4826 * 3)  # median -1
    assert stay == [True] * 12 + [False, True]
    # Where most are the same, not everything else is an outlier.
    assert kept([1.0, 1.0, 1.0, 0.0]) == (pytest.approx(1 - 3.5 * 1.2533 / 4), [True] * 4)
    assert kept([1.0] * 99 + [0.0])[1] == [True] * 99 + [False]
    assert kept([None]) == (None, [True])
    # A token that stands out is a hundred times less likely, however close together the others are.
    assert kept([*[1.0] * 99, 0.0, 1 - 4.7], Signal.WEAKEST) == (
        pytest.approx(1 - math.log(100)),
        [True] * 100 + [False],
    )
    assert kept([*usual, -16.0, -17.0, None], Signal.WEAKEST)[0] == line
