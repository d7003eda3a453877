"""The efficacy bench: what is asked, what is wrong with it, who is on which side, and what weights are worth."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from bench.efficacy.answers import samples
from bench.efficacy.measures import Spread, detection, spread
from bench.efficacy.signals import measures
from bench.efficacy.task import Alone, Dataset, Sizes, TooFew, divide, plant, write
from bench.efficacy.tasks import TASKS, instructions, maths, procedural
from bench.efficacy.tasks.procedural import PROCEDURES, Exercise
from bench.efficacy.tasks.spans import KINDS, OTHER_SPAN, WHOLE_SENTENCE, other_span, whole_sentence
from bench.efficacy.tasks.templates import Question, questions
from burnish.report.calibration import auroc

CONTEXT = "In 1901 Anna Berg left Oslo for Paris. She painted 12 large portraits there! Her brother stayed."
SIZES = Sizes(rows=120, validation=10, held_out=20, noise=0.3)


def question(answer: str, context: str = CONTEXT, asked: str = "Who?", wording: int = 0) -> Question:
    return Question(f"{wording}: {asked} {context}", asked, context, answer)


def many(contexts: int = 60, asked: int = 3, wordings: int = 4) -> list[Question]:
    """Each context has names of its own, so that a row says where it is from."""
    found = []
    for number in range(contexts):
        context = f"City{number} lies on River{number}. Its mayor is Mayor{number}. It was founded in {1000 + number}."
        answers = [f"River{number}", f"Mayor{number}", str(1000 + number)]
        found += [
            question(answers[which], context, f"Question {which}?", wording)
            for which in range(asked)
            for wording in range(wordings)
        ]
    return found


def divided(rows: list[Question], sizes: Sizes, seed: int) -> Dataset:
    return divide(rows, lambda there: KINDS, sizes, seed)


# --- templates


@pytest.mark.parametrize(
    ("task", "instruction"),
    [
        ("quoref_Guess_Answer", "The answer to the question: Who? is inside the article: Ann did., can you guess it ?"),
        (
            "quoref_Given_Context_Answer_Question",
            "Who?\n\nAnswer the above question based on the context below:\n\nAnn did.",
        ),
        ("adversarial_qa_dbert_question_context_answer", 'Question: "Who?"\n\nContext: "Ann did."\n\nAnswer:'),
        (
            "duorc_SelfRC_question_answering",
            'Question: Who?\nIf there is no answer, please output "None".\nMovie title: T\nContext: Ann did.',
        ),
    ],
)
def test_question_and_context_are_read_from_a_prompt(task: str, instruction: str) -> None:
    (found,) = questions([{"task": task, "instruction": instruction, "output": "Ann"}])
    assert found == Question(instruction, "Who?", "Ann did.", "Ann")


def test_what_is_no_span_another_task_or_asked_before_is_left_out() -> None:
    right = {"task": "quoref_Find_Answer", "output": "Ann"}
    right["instruction"] = (
        "The following article contains an answer for the question: Who? , can you please find it? \n\nAnn did."
    )
    others = [{**right, "output": "Bob"}, {**right, "task": "quoref_Guess_Title_For_Context"}, {**right, "output": " "}]
    assert len(list(questions([right, right, *others]))) == 1


# --- flaws


@pytest.mark.parametrize("answer", ["Anna Berg", "12", "Paris", "She painted"])
def test_another_span_is_as_long_from_one_sentence_and_apart_from_the_answer(answer: str) -> None:
    for seed in range(50):
        span = other_span(question(answer), random.Random(seed))
        assert span is not None
        assert span in CONTEXT
        assert len(span.split()) == len(answer.split())
        assert answer not in span
        assert span not in answer
        assert not any(mark in span for mark in ".!?")


def test_another_span_begins_like_the_answer_where_one_does() -> None:
    assert {other_span(question("1901"), random.Random(seed)) for seed in range(20)} == {"12"}
    assert other_span(question("7 days", "It took 7 days. No more."), random.Random(0)) in {"It took", "No more"}


def test_a_whole_sentence_does_not_hold_the_answer() -> None:
    found = {whole_sentence(question("Anna Berg"), random.Random(seed)) for seed in range(20)}
    assert found == {"She painted 12 large portraits there!"}  # the last one is too short
    assert whole_sentence(question("Ann", "Ann went home at noon."), random.Random(0)) is None
    assert other_span(question("Ann went home at noon", "Ann went home at noon."), random.Random(0)) is None


def test_flaws_are_as_many_as_asked_of_both_kinds_and_the_same_by_seed() -> None:
    rows = many()
    flaws = plant(rows, KINDS, 0.3, random.Random(7))
    kinds = [flaw.kind for flaw in flaws.values()]
    assert len(flaws) == round(0.3 * len(rows))
    assert kinds.count(OTHER_SPAN) == kinds.count(WHOLE_SENTENCE)
    assert all(flaw.answer != rows[place].answer for place, flaw in flaws.items())
    assert plant(rows, KINDS, 0.3, random.Random(7)) == flaws
    assert plant(rows, KINDS, 0.3, random.Random(8)) != flaws


def test_a_context_that_lacks_one_kind_gets_the_other() -> None:
    rows = [question("Ann", "Ann went home at noon.", wording=number) for number in range(10)]
    assert {flaw.kind for flaw in plant(rows, KINDS, 0.5, random.Random(0)).values()} == {OTHER_SPAN}
    assert plant([question("Ann", "Ann")], KINDS, 1.0, random.Random(0)) == {}


# --- other tasks

WORKED = Alone("How many?", "There are 12 x 90 = 1080 of them.\nThat is 1080 + 8 = $1,088 in all.\n#### 1088")


def test_a_wrong_result_stands_wherever_the_steps_name_it() -> None:
    for seed in range(20):
        wrong = maths.wrong_number(WORKED, random.Random(seed))
        assert wrong is not None
        made = maths.result(wrong)
        assert made != "1088"
        assert f"1080 + 8 = ${made} in all.\n#### {made}" in wrong
        assert "12 x 90 = 1080 of" in wrong
    assert maths.wrong_number(Alone("", "No number\n#### none"), random.Random(0)) is None
    assert maths.result("#### 5") is None
    assert maths.result("so\n#### 1,250") == "1250"


def test_steps_that_lead_to_nothing_begin_like_the_right_ones() -> None:
    assert maths.cut_off(WORKED, random.Random(0)) == "There are 12 x 90 = 1080 of them."
    assert maths.cut_off(Alone("", "One step\n#### 1"), random.Random(0)) is None


def test_answers_are_swapped_with_some_of_about_the_same_length() -> None:
    rows = [Alone(f"q{n}", "word " * n + str(n)) for n in range(1, 200)]
    swapped = instructions.kinds(rows)[instructions.SWAPPED]
    for row in rows[30:170]:
        wrong = swapped(row, random.Random(0))
        assert wrong is not None
        assert wrong != row.answer
        assert wrong in {other.answer for other in rows}
        assert abs(len(wrong) - len(row.answer)) < 70
    assert instructions.kinds(rows[:1])[instructions.SWAPPED](rows[0], random.Random(0)) is None


def test_an_answer_that_stops_in_the_middle_is_a_beginning_without_an_end() -> None:
    row = Alone("q", "One two three four. Five six seven eight. Nine ten eleven twelve.")
    for seed in range(20):
        cut = instructions.cut_off(row, random.Random(seed))
        assert cut is not None
        assert row.answer.startswith(cut)
        assert 3 <= len(cut.split()) <= 9
        assert cut[-1].isalpha()
    assert instructions.cut_off(Alone("q", "Too short."), random.Random(0)) is None


def test_procedures_do_what_they_say() -> None:
    done = {name: Exercise(name, ("stone", "apple", "magnets")).answer for name in PROCEDURES}
    assert done == {
        "reverse": "magnets, apple, stone",
        "sort": "apple, magnets, stone",
        "sort down": "stone, magnets, apple",
        "longest": "magnets",
        "second": "apple",
        "capitals": "STONE, APPLE, MAGNETS",
        "initials": "sam",
        "count": "17",
    }


def test_a_wrong_answer_of_a_procedure_is_never_the_right_one() -> None:
    rows = procedural.read(Path())
    assert len(rows) == len(set(rows))
    rng = random.Random(1)
    for row in rows[:500]:
        for kind in procedural.kinds(rows).values():
            wrong = kind(row, rng)
            assert wrong is not None
            assert wrong != row.answer, row


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_makes_data_with_known_flaws_of_each_kind(name: str) -> None:
    task = TASKS[name]
    if task.data is not None and not task.data.is_file():
        pytest.skip(f"{task.data} is on this project's machines only")
    rows = task.read(task.data or Path())
    made = divide(rows, task.kinds, Sizes(400, 20, 40, 0.3), 0)
    assert len(made.flaws) == 120
    counts = [sum(flaw.kind == kind for flaw in made.flaws.values()) for kind in task.kinds(rows)]
    assert min(counts) > 40
    assert all(flaw.answer != made.training[place].answer for place, flaw in made.flaws.items())
    apart = {row.answer for row in [*made.validation, *made.held_out]} - {row.answer for row in made.training}
    assert not apart & {flaw.answer for flaw in made.flaws.values()} or name == "procedural"
    assert divide(rows, task.kinds, Sizes(400, 20, 40, 0.0), 0).flaws == {}


# --- sides


def test_no_context_is_on_two_sides() -> None:
    made = divided(many(), SIZES, 0)
    sides = [made.training, made.validation, made.held_out]
    assert [len(side) for side in sides] == [120, 10, 20]
    for one, other in combinations(sides, 2):
        assert not {row.group for row in one} & {row.group for row in other}


def test_spaces_and_case_make_no_other_context() -> None:
    rows = many(contexts=8)
    same = [replace(row, context=f" {row.context.upper()}  ", prompt=f"{row.prompt}!") for row in rows]
    made = divided([*rows, *same], Sizes(0, 10, 10, 0.3), 1)
    contexts = [{" ".join(row.group.casefold().split()) for row in side} for side in (made.training, made.validation)]
    assert not contexts[0] & contexts[1]


def test_sets_that_judge_hold_few_wordings_of_a_question() -> None:
    made = divided(many(), SIZES, 0)
    for side in (made.validation, made.held_out):
        asked = [(row.group, row.wording_of) for row in side]
        assert max(asked.count(one) for one in asked) <= 2


def test_data_are_the_same_by_seed_and_all_rows_are_taken_where_none_are_named() -> None:
    assert divided(many(), SIZES, 3) == divided(many(), SIZES, 3)
    assert divided(many(), SIZES, 3) != divided(many(), SIZES, 4)
    most = divided(many(), replace(SIZES, rows=0), 3)
    assert len(most.training) > 600


def test_too_few_rows_are_told() -> None:
    with pytest.raises(TooFew, match=r"are left to train on .* 9999 were asked for"):
        divided(many(), replace(SIZES, rows=9999), 0)
    with pytest.raises(TooFew, match="of 9999 rows to be held out"):
        divided(many(), replace(SIZES, validation=9999), 0)


def test_the_truth_is_beside_the_rows_and_not_in_them(tmp_path: Path) -> None:
    made = divided(many(), SIZES, 0)
    files = write(made, tmp_path)
    rows = {row.id: row.messages[-1].content for row in samples(files.training)}
    truth = {one["id"]: one for one in map(json.loads, files.truth.read_text().splitlines())}
    assert files.flaws() == {name: one["flaw"] for name, one in truth.items()}
    assert len(truth) == len(made.flaws) == 36
    for number, (name, answer) in enumerate(rows.items()):
        right = made.training[number].answer
        assert (answer != right) == (name in truth)
        if name in truth:
            assert truth[name]["response"] == right
    assert [row.id for row in samples(files.right)] == [name for name in rows if name not in truth]
    columns = {key for line in files.training.read_text().splitlines() for key in json.loads(line)}
    assert columns == {"id", "messages"}


# --- measures


def test_auroc_counts_pairs_and_ties_by_half() -> None:
    def of(right: list[int], wrong: list[int]) -> float | None:
        return auroc([*right, *wrong], [False] * len(right) + [True] * len(wrong))

    assert of([3, 2], [1, 0]) == 1.0
    assert of([0, 1], [2, 3]) == 0.0
    assert of([1, 1], [1, 1, 1]) == 0.5
    assert of([2, 0], [1]) == 0.5
    rng = random.Random(0)
    right, wrong = [rng.randrange(9) for _ in range(40)], [rng.randrange(7) for _ in range(30)]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    assert of(right, wrong) == pytest.approx(sum(pairs) / len(pairs))


def test_trust_and_what_was_dropped_are_judged_against_the_truth() -> None:
    trust = {"a": 2.0, "b": 1.0, "x": 1.5, "y": 0.0}
    judged = detection(trust, {"b", "y"}, {"x": OTHER_SPAN, "y": WHOLE_SENTENCE})
    assert judged.auroc == 0.75
    assert judged.auroc_by_kind == {OTHER_SPAN: 0.5, WHOLE_SENTENCE: 1.0}
    assert (judged.precision, judged.recall) == (0.5, 0.5)
    assert judged.by_kind == {OTHER_SPAN: 0.0, WHOLE_SENTENCE: 1.0}
    nothing = detection({"a": 1.0}, set(), {})
    assert (nothing.auroc, nothing.precision, nothing.recall) == (None, None, None)


def test_a_signal_is_judged_whether_an_arm_went_by_it_or_not() -> None:
    """As many rows as are wrong are taken for wrong: of three right ones and two wrong ones, the two lowest."""
    rows = {
        "a": {"rank": 1.0, "max_nll": 1.0, "mean_nll": 0.5, "num_tokens": 9.0},
        "b": {"max_nll": 2.0, "mean_nll": 0.6, "num_tokens": 2.0},
        "c": {"max_nll": 3.0, "mean_nll": 0.7, "num_tokens": 3.0},
        "x": {"max_nll": 8.0, "mean_nll": 0.1, "num_tokens": 1.0},
        "y": {"max_nll": 2.5, "mean_nll": 0.2, "num_tokens": 1.0},
    }
    later = {"a": {"mean_nll": 0.9, "calibrated_odds": 2.0}, "x": {"calibrated_odds": None}}
    flaws = {"x": OTHER_SPAN, "y": WHOLE_SENTENCE}
    found = measures([rows, later], flaws)
    assert found.keys() == {"calibrated", "length", "loss", "weakest"}
    assert found["weakest"].auroc == pytest.approx(5 / 6)
    assert found["weakest"].precision == found["weakest"].recall == 0.5
    assert found["weakest"].auroc_by_kind == {OTHER_SPAN: 1.0, WHOLE_SENTENCE: pytest.approx(2 / 3)}
    assert (found["length"].auroc, found["length"].recall) == (1.0, 1.0)
    assert (found["loss"].auroc, found["loss"].recall) == (0.0, 0.0), "what the first run measured of a counts"
    assert found["calibrated"].auroc is None
    assert measures([rows], {}) == {}


def test_numbers_over_seeds() -> None:
    assert spread([0.5, 1.5]) == Spread(1.0, 0.5, (0.5, 1.5))
    assert spread([0.5]) == Spread(0.5, None, (0.5,))
    assert spread([]) is None
