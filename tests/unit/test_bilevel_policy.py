"""What learnt weights mean for rows, and how a validation set is held out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.coordinator.errors import InputError
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Weight, split_by, split_off, split_size, weigh_rows
from burnish.coordinator.policy.verdict import Action
from burnish.coordinator.recipes.bds.settings import BdsSettings


def row(number: int) -> DataRow:
    return DataRow(f"r{number}", f"h{number}", "source", None, f"r{number}")


ROWS = [row(number) for number in range(20)]
PROMPTS = {f"h{number}": f"p{number // 2}" for number in range(20)}  # two rows to a prompt


@given(size=st.integers(1, 20), seed=st.integers(0, 1000))
def test_no_prompt_is_on_both_sides_of_a_split(size: int, seed: int) -> None:
    split = split_off(ROWS, PROMPTS, set(), size, seed)
    sides = [{PROMPTS[one.sample_hash] for one in side} for side in (split.training, split.validation)]
    assert not sides[0] & sides[1]
    assert len(split.training) + len(split.validation) == 20
    assert size <= len(split.validation) <= size + 1
    assert split_off(ROWS, PROMPTS, set(), size, seed) == split
    assert split_off(list(reversed(ROWS)), PROMPTS, set(), size, seed).validation == list(reversed(split.validation))


@pytest.mark.parametrize("seed", range(8))
def test_a_prompt_of_many_rows_does_not_make_the_validation_set_of_most(seed: int) -> None:
    rows = [row(number) for number in range(100)]
    prompts = {f"h{number}": "poem" if number < 90 else f"p{number}" for number in range(100)}
    assert len(split_off(rows, prompts, set(), 10, seed).validation) == 10
    assert len(split_off(rows, prompts, set(), 11, seed).validation) == 90, "the fewest that are 11, and leave some"


def test_a_share_of_what_has_weights_is_what_it_says() -> None:
    rows = [row(number) for number in range(100)]
    weights = {one.row_id: Weight(0.5, float(number)) for number, one in enumerate(rows)}
    verdicts = weigh_rows(rows, split_by(rows, {one.sample_hash: "p" for one in rows}, set()), weights, 0.29)
    assert sum(one.actions[0] is Action.KEEP for one in verdicts) == 29


def test_samples_that_the_result_is_judged_by_are_not_drawn() -> None:
    split = split_off(ROWS, PROMPTS, {"h3", "h4"}, 20, 0)
    assert {one.row_id for one in split.training} == {"r2", "r3", "r4", "r5"}, "nor others with their prompts"


def test_rows_with_a_prompt_of_the_validation_set_are_not_trained_on() -> None:
    split = split_by(ROWS, PROMPTS, {"p0", "p7"})
    assert [one.row_id for one in split.validation] == ["r0", "r1", "r14", "r15"]


@pytest.mark.parametrize(("asked", "size"), [(0.05, 50), (0.0001, 1), (100.0, 100)])
def test_the_size_of_a_split_is_a_share_or_a_number(asked: float, size: int) -> None:
    assert split_size(asked, 1000) == size


def test_the_largest_weights_are_kept_and_every_row_has_its_reason() -> None:
    split = split_by(ROWS, PROMPTS, {"p0"})
    weights = {f"r{number}": Weight(1.0, float(number % 7)) for number in range(2, 19)}
    verdicts = weigh_rows(ROWS, split, weights, keep=0.5)
    assert [one.row_id for one in verdicts] == [one.row_id for one in ROWS]
    actions = {one.row_id: one.actions[0] for one in verdicts}
    assert Counter(actions.values()) == {Action.KEEP: 8, Action.DROP: 9, Action.VALIDATE: 2, Action.UNREAD: 1}
    assert actions["r19"] is Action.UNREAD
    # 6 and 5 come twice, 4 three times; of those with 3 the first.
    assert {name for name, action in actions.items() if action is Action.KEEP} == {
        *("r6", "r13", "r5", "r12", "r4", "r11", "r18", "r3"),
    }
    assert verdicts[6].signals == {"rank": 1.0, "weight": 1.0, "logit": 6.0}
    assert "Number 1 of 17" in verdicts[6].reasons[0]


def test_something_is_always_kept() -> None:
    weights = {"r2": Weight(1.0, 0.5), "r3": Weight(1.0, 0.1)}
    verdicts = weigh_rows(ROWS, split_by(ROWS, PROMPTS, set()), weights, keep=0.01)
    assert [one.row_id for one in verdicts if one.actions[0] is Action.KEEP] == ["r2"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "give either files"),
        ({"validation": "v.json", "validation_split": 0.1}, "give either files"),
        ({"validation_split": 10.5}, "a whole number of rows"),
        ({"validation_split": 0.1, "keep": 1.5}, "keep"),
        ({"validation_split": 0.1, "weighting": "relu"}, "weighting"),
        ({"validation_split": 0.1, "training": {"lora_alpha": 16}}, "give lora_rank as well"),
    ],
)
def test_settings_that_make_no_sense_are_refused(more: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        BdsSettings.parse({"data": "d.json", "model": "m", **more})


def test_a_run_is_the_same_whatever_its_files_are_called() -> None:
    digests = {"data": "d", "holdout": "", "validation": "v"}
    named, moved = (
        BdsSettings(data=("d",), model="m", validation=(name,)).identity(digests) for name in ("a.json", "b.json")
    )
    assert named == moved
    adapted = BdsSettings(data=("d",), model="m", validation=("a",), training={"lora_rank": 8})  # type: ignore[arg-type]
    assert adapted.identity(digests) != named
