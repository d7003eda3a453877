"""What the judge is asked, and how its reply is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.scoring.rating import Dimension, JudgePrompts, Target, parse_rating

CONVERSATION = [
    ChatMessage("system", "Be brief."),
    ChatMessage("user", "Why is the sky blue?"),
    ChatMessage("assistant", "Because of {{ dimension }} scattering."),
]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("7", 7.0),
        ("8.5", 8.5),
        ("Rating: 7", 7.0),
        ("10/10", 10.0),
        ("I give it 6 out of 10.", 6.0),
        # The first number counts, wherever it stands: the published rule.
        ("On a scale from 0 to 10: 8", 0.0),
        ("Clarity - 7", 7.0),
        ("-3", 3.0),
        ("85", 10.0),
        ("0", 0.0),
        ("0.0", 0.0),
        ("7,5", 7.0),
        ("1 0", 1.0),
        (".5", 5.0),
        ("8.", 8.0),
        ("v2.10 is good", 2.1),
        ("１０", 10.0),
        ("٧", 7.0),
        ("9" * 400, 10.0),
        ("", None),
        ("seven", None),
        ("ten out of ten!", None),
        ("x²", None),
    ],
)
def test_the_first_number_counts_and_is_clamped(reply: str, value: float | None) -> None:
    assert parse_rating(reply) == value


@given(st.text())
def test_a_rating_is_in_range_or_absent(reply: str) -> None:
    value = parse_rating(reply)
    assert value is None or 0 <= value <= 10


@pytest.mark.parametrize("dimension", list(Dimension))
@pytest.mark.parametrize("target", list(Target))
def test_a_question_shows_its_material_and_ends_in_the_request(dimension: Dimension, target: Target) -> None:
    question = JudgePrompts().conversation(CONVERSATION, dimension, target)[-1].content
    assert "Why is the sky blue?" in question
    assert "Be brief." in question
    # What the material says is shown as it is, never read as a template.
    assert ("{{ dimension }} scattering" in question) == (target is Target.RESPONSE)
    request = question[question.index("Rate the ") :]
    assert str(dimension) in request
    assert "0 to 10" in request
    assert not question.endswith("\n")


def test_the_questions_about_a_sample_share_what_they_can() -> None:
    prompts = JudgePrompts()
    questions = [
        prompts.conversation(CONVERSATION, dimension, target)[-1].content
        for dimension in Dimension
        for target in Target
    ]
    assert len(set(questions)) == 6
    for question in questions:
        assert question.startswith(questions[0][: questions[0].index("Rate the ")].rstrip())


def test_all_turns_are_shown_in_order() -> None:
    turns = [*CONVERSATION, ChatMessage("user", "And at dusk?"), ChatMessage("assistant", "Red.")]
    question = JudgePrompts().conversation(turns, Dimension.CLARITY, Target.RESPONSE)[-1].content
    places = [question.index(turn.content) for turn in turns]
    assert places == sorted(places)


def test_the_digest_is_stable() -> None:
    assert JudgePrompts().digest == JudgePrompts().digest
    assert len(JudgePrompts().digest) == 16
