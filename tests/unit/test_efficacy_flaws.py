"""Flaws of the efficacy bench beyond wrong answers: vague prompts, floods of copies, and how kinds are chosen."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.efficacy.flaws import DUPLICATE, VAGUE, Flood, Vague, plant, reworded
from bench.efficacy.task import SYSTEM, Alone, Sizes, divide, write
from bench.efficacy.tasks import ANSWERS, TASKS, UnknownFlaw, extractive_qa, instructions, maths, procedural
from bench.efficacy.tasks.instructions import Instruction
from bench.efficacy.tasks.procedural import OTHER_PROCEDURE, SLIP
from bench.efficacy.tasks.templates import Question

PROCEDURES = TASKS["procedural"]
ROWS = procedural.read(Path())
SIZES = Sizes(rows=200, validation=10, held_out=20, noise=0.3)


def tries(change, row) -> set[str | None]:
    return {change(row, random.Random(seed)) for seed in range(40)}


# --- vague prompts


def test_a_question_loses_all_but_the_word_it_asks_with() -> None:
    row = Question("Read: Ann wed Bob in 1901.\nWho wed Bob?", "Who wed Bob?", "Ann wed Bob in 1901.", "Ann")
    left = {"Read: Ann wed Bob in 1901.\nWho was it?", "Read: Ann wed Bob in 1901.\nWhat about it?"}
    assert tries(extractive_qa.vague, row) == left
    other = Question("Name the wife of Bob. Ann wed Bob.", "Name the wife of Bob.", "Ann wed Bob.", "Ann")
    assert tries(extractive_qa.vague, other) == {"What about it? Ann wed Bob."}
    twice = Question("Who? Who? Ann did.", "Who?", "Ann did.", "Ann")
    assert tries(extractive_qa.vague, twice) == {None}


def test_a_sum_loses_a_number_that_its_answer_reckons_with() -> None:
    row = Alone("Ann, 30, buys 4 pens at $1,250 each, and 4 more on May 5th. How much?", "8 x 1,250 = 10000, 4 + 4 = 8")
    assert tries(maths.vague, row) == {
        "Ann, 30, buys some pens at $1,250 each, and some more on May 5th. How much?",
        "Ann, 30, buys 4 pens at some money each, and 4 more on May 5th. How much?",
    }
    assert maths.vague(Alone("It rose by 20%.", "20 / 100"), random.Random(0)) == "It rose by some percent."
    assert maths.vague(Alone("Half of the 8-hour day?", "8 / 2 = 4"), random.Random(0)) is None
    assert maths.vague(Alone("He has 3 dogs and 12 legs.", "four x 4 = 16"), random.Random(0)) is None


def test_an_instruction_loses_its_input_or_what_is_to_be_done() -> None:
    row = Instruction("Sum it up.\nA long text.", "Short.", "Sum it up.")
    found = tries(instructions.vague, row)
    assert "Sum it up." in found
    assert all(prompt.endswith("\nA long text.") and "Sum" not in prompt for prompt in found - {"Sum it up."})
    without = tries(instructions.vague, Instruction("Tell a joke.", "No.", "Tell a joke."))
    assert "Write something about this." in without
    assert not any("joke" in prompt for prompt in without)


def test_instruction_and_input_are_read_apart(tmp_path: Path) -> None:
    record = {"instruction": " Sum it up. ", "input": " A text.", "output": "Short."}
    (tmp_path / "a.json").write_text(json.dumps([record, record, {**record, "input": "", "output": " "}]))
    assert instructions.read(tmp_path / "a.json") == [Instruction("Sum it up.\nA text.", "Short.", "Sum it up.")]


def test_a_list_is_left_without_its_procedure() -> None:
    for row in ROWS[:50]:
        prompt = procedural.vague(row, random.Random(1))
        begin, items = prompt.split(": ")
        assert tuple(items.split(", ")) == row.items
        assert begin not in {text for text, _ in procedural.PROCEDURES.values()}


def test_a_vague_prompt_leaves_the_answer() -> None:
    flaws = plant(ROWS[:100], PROCEDURES.kinds(ROWS, [VAGUE]), 0.4, random.Random(3))
    assert len(flaws) == 40
    for place, flaw in flaws.items():
        assert (flaw.kind, flaw.answer, flaw.of) == (VAGUE, ROWS[place].answer, place)
        assert flaw.prompt != ROWS[place].prompt


# --- floods


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def bare(prompt: str) -> str:
    """Without what a copy may change."""
    return re.sub(r"[^a-z]+", "", prompt.casefold().removeprefix("please "))


def test_a_flood_copies_a_few_rows_of_one_topic_and_the_first_of_each_stays() -> None:
    for seed in range(10):
        rows = random.Random(seed).sample(ROWS, 200)
        flaws = plant(rows, {DUPLICATE: Flood(procedural.topic)}, 0.3, random.Random(seed))
        assert len(flaws) == 60
        copied = {flaw.of for flaw in flaws.values()}
        assert 2 <= len(copied) <= 5
        assert len({rows[place].procedure for place in copied}) == 1
        assert not copied & set(flaws)
        for place, flaw in flaws.items():
            assert place > flaw.of
            assert flaw.answer == rows[flaw.of].answer
            assert bare(flaw.prompt) == bare(rows[flaw.of].prompt)
        assert {flaw.prompt == rows[flaw.of].prompt for flaw in flaws.values()} == {True, False}


def test_rewording_changes_no_word() -> None:
    prompt = "Who painted the lamp?"
    made = {reworded(prompt, random.Random(seed)) for seed in range(200)}
    assert {prompt, "who painted the lamp?", "Who painted the lamp", "Please who painted the lamp?"} < made
    assert {bare(one) for one in made} == {bare(prompt)}


def test_rows_that_are_about_nothing_or_too_few_are_not_copied() -> None:
    rows = [Alone(f"prompt {number}", "a") for number in range(20)]
    assert plant(rows, {DUPLICATE: Flood(lambda row: "")}, 0.3, random.Random(0)) == {}
    assert plant(rows[:5], {DUPLICATE: Flood(lambda row: "all")}, 0.5, random.Random(0)) == {}
    some = plant(rows, {DUPLICATE: Flood(lambda row: row.prompt)}, 0.3, random.Random(0))
    assert len({flaw.of for flaw in some.values()}) == 1  # of topics with one row each, one is flooded
    assert len(some) == 6


def test_wordings_of_one_question_are_not_all_that_is_copied() -> None:
    rows = [Question(f"{n}: {n % 8}?", f"{n % 8}?", "context", "a") for n in range(80)]
    flaws = plant(rows, {DUPLICATE: Flood(extractive_qa.topic)}, 0.3, random.Random(0))
    assert len({rows[flaw.of].question for flaw in flaws.values()}) == len({flaw.of for flaw in flaws.values()}) == 5


def test_the_topic_of_a_sum_is_what_it_counts() -> None:
    assert maths.topic(Alone("How many cats? How many of the dogs are left?", "")) == "dogs"
    assert maths.topic(Alone("How much did she pay?", "")) == "much"
    assert maths.topic(Alone("What is the sum?", "")) == ""


# --- together


def test_kinds_take_turns_and_a_flood_copies_only_what_is_right() -> None:
    kinds = partial(PROCEDURES.kinds, names=[DUPLICATE, ANSWERS, VAGUE])
    made = divide(ROWS, kinds, SIZES, 0)
    counts = Counter(flaw.kind for flaw in made.flaws.values())
    assert counts == {OTHER_PROCEDURE: 15, SLIP: 15, VAGUE: 15, DUPLICATE: 15}
    assert not {flaw.of for flaw in made.flaws.values() if flaw.kind == DUPLICATE} & set(made.flaws)
    assert divide(ROWS, kinds, SIZES, 0) == made
    assert divide(ROWS, kinds, SIZES, 1).flaws != made.flaws
    assert divide(ROWS, kinds, Sizes(200, 10, 20, 0.0), 0).flaws == {}


def test_what_the_files_say_of_vague_prompts_and_copies(tmp_path: Path) -> None:
    made = divide(ROWS, partial(PROCEDURES.kinds, names=[VAGUE, DUPLICATE]), SIZES, 0)
    files = write(made, tmp_path)
    texts = {one["id"]: [turn["content"] for turn in one["messages"][1:]] for one in records(files.training)}
    truth = {one["id"]: one for one in records(files.truth)}
    right = {one["id"] for one in records(files.right)}
    assert right == set(texts) - set(truth)
    assert Counter(one["flaw"] for one in truth.values()) == {VAGUE: 30, DUPLICATE: 30}
    for name, one in truth.items():
        assert texts[name][1] == one["response"]  # no answer is wrong
        if one["flaw"] == DUPLICATE:
            assert bare(texts[name][0]) in {bare(texts[other][0]) for other in right}
    assert len({bare(texts[name][0]) for name in right}) == len(right)  # no copy is left among the right rows


def test_kinds_are_chosen_by_name_in_an_order_of_their_own() -> None:
    assert list(PROCEDURES.kinds(ROWS)) == [OTHER_PROCEDURE, SLIP] == list(PROCEDURES.kinds(ROWS, [SLIP, ANSWERS]))
    assert list(PROCEDURES.kinds(ROWS, [DUPLICATE, SLIP])) == [SLIP, DUPLICATE]
    assert isinstance(PROCEDURES.kinds(ROWS, [VAGUE])[VAGUE], Vague)
    with pytest.raises(UnknownFlaw, match=r"no flaw typos; expected answers .*: other procedure, slip, vague, dup"):
        PROCEDURES.kinds(ROWS, [VAGUE, "typos"])
    with pytest.raises(UnknownFlaw, match="expected answers"):
        PROCEDURES.kinds(ROWS, [])


def test_data_with_flaws_that_change_answers_are_what_they_were_before_there_were_others(tmp_path: Path) -> None:
    files = write(divide(ROWS, PROCEDURES.kinds, Sizes(400, 20, 40, 0.3), 0), tmp_path)
    digest = hashlib.sha256()
    system = json.dumps({"role": "system", "content": SYSTEM}).encode() + b", "  # they had none then
    for path in sorted(files.folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes().replace(system, b""))
    assert digest.hexdigest().startswith("127180abed3ebb89")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_has_vague_prompts_and_floods(name: str) -> None:
    task = TASKS[name]
    if task.data is not None and not task.data.is_file():
        pytest.skip(f"{task.data} is on this project's machines only")
    rows = task.read(task.data or Path())
    made = divide(rows, partial(task.kinds, names=[VAGUE, DUPLICATE]), Sizes(400, 20, 40, 0.5), 0)
    assert Counter(flaw.kind for flaw in made.flaws.values()) == {VAGUE: 100, DUPLICATE: 100}
    for place, flaw in made.flaws.items():
        assert flaw.answer == made.training[flaw.of].answer
        if flaw.kind == VAGUE:
            assert flaw.prompt != made.training[place].prompt
