"""Self-reflection's options in three orders, and the verdicts turned back: a wrong turn would spoil every CLEAR
confidence and break nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish_services.engine.base import EngineFailure, EngineSettings, RankRequest, Task
from burnish_services.engine.fake import FakeEngine, write_fake_model
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.scoring.choosing import Choice
from burnish_services.scoring.confidence import reflection
from burnish_services.scoring.losses import SampleLoss, TurnLoss
from burnish_services.scoring.reflecting import LETTERS, VERDICTS, Belief, _belief, _rotated, believe

COVERED = 0.8  # of the probability that the letters have together
CORRECT, INCORRECT, UNSURE = "The last response is correct.", "The last response is incorrect.", "I am not sure."
PROMPTS = PromptFiles("burnish_services.scoring")
Opinion = Callable[[str, dict[str, str]], dict[str, float]]  # of the text and its options, by letter


def conversation(*contents: str) -> list[ChatMessage]:
    return [ChatMessage("assistant" if index % 2 else "user", text) for index, text in enumerate(contents)]


@pytest.fixture
async def engine(tmp_path: Path) -> FakeEngine:
    made = FakeEngine(EngineSettings(str(write_fake_model(tmp_path / "model")), Task.POOL))
    await made.start()
    return made


@pytest.fixture
def thinks(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[Opinion], list[dict[str, str]]]:
    """Gives the engine an opinion of options; returns the options that it is then shown, by letter."""

    def give(opinion: Opinion) -> list[dict[str, str]]:
        shown: list[dict[str, str]] = []

        async def rank(requests: Sequence[RankRequest]) -> list[NDArray[np.float32]]:
            answers = []
            for request in requests:
                text = engine.tokenizer.decode(request.token_ids)
                shown.append(dict(re.findall(r"^\(([ABC])\) (.*?)$", text, re.MULTILINE)))
                written = [engine.tokenizer.decode([token]).strip().upper() for token in request.candidates]
                ways, chances = Counter(written), opinion(text, shown[-1])  # "A", "a" and " a" share what A has
                assert ways.keys() == set(LETTERS)
                masses = [COVERED * chances[letter] / ways[letter] for letter in written]
                answers.append(np.log(masses).astype(np.float32))
            return answers

        monkeypatch.setattr(engine, "rank", rank)
        return shown

    return give


async def beliefs(engine: FakeEngine, *conversations: Sequence[ChatMessage]) -> list[Belief | EngineFailure]:
    return await believe(engine, PROMPTS, conversations, CallRecord(method=""))


def probabilities(belief: Belief | EngineFailure) -> list[tuple[float, ...]]:
    assert isinstance(belief, Belief), belief
    return [verdict.probabilities for verdict in belief.verdicts]


async def test_who_reads_the_options_gives_one_verdict_whatever_their_order(engine, thinks) -> None:
    chances = {CORRECT: 0.6, INCORRECT: 0.3, UNSURE: 0.1}
    shown = thinks(lambda _, options: {letter: chances[text] for letter, text in options.items()})
    (belief,) = await beliefs(engine, conversation("What is water?", "It is wet."))
    assert len(probabilities(belief)) == 6
    for verdict in probabilities(belief):
        assert verdict == pytest.approx((0.6, 0.3, 0.1), abs=1e-6)
    assert belief.covered_mass == pytest.approx(COVERED, abs=1e-6)

    # Else it would be no wonder: each question is asked in three orders, in which each option has each letter once.
    assert [list(options) for options in shown] == [list(LETTERS)] * 6
    orders = [tuple(options.values()) for options in shown]
    assert orders[:3] == orders[3:]
    assert orders[0] == (CORRECT, INCORRECT, UNSURE)
    for places in (orders[:3], zip(*orders[:3], strict=True)):
        assert all(set(texts) == {CORRECT, INCORRECT, UNSURE} for texts in places)


async def test_who_likes_a_letter_gives_each_verdict_its_share_in_turn(engine, thinks) -> None:
    """By hand, of a model that gives A .7, B .2 and C .1 whatever stands there:

    correct, incorrect, not sure    are A B C    p(correct) = .7    p(incorrect) = .2    p(not sure) = .1
    incorrect, not sure, correct    are A B C    p(correct) = .1    p(incorrect) = .7    p(not sure) = .2
    not sure, correct, incorrect    are A B C    p(correct) = .2    p(incorrect) = .1    p(not sure) = .7

    and S = (.75 + .2 + .55) / 3 = ½, as of a model that has no opinion at all."""
    thinks(lambda *_: {"A": 0.7, "B": 0.2, "C": 0.1})
    (belief,) = await beliefs(engine, conversation("What is water?", "It is wet."))
    by_hand = [(0.7, 0.2, 0.1), (0.1, 0.7, 0.2), (0.2, 0.1, 0.7)] * 2
    found = probabilities(belief)
    for verdict, expected in zip(found, by_hand, strict=True):
        assert verdict == pytest.approx(expected, abs=1e-6)
    assert reflection([(a, b, c) for a, b, c in found]) == pytest.approx(0.5, abs=1e-6)


async def test_each_conversation_keeps_its_own_verdicts_beside_one_that_fails(engine, thinks) -> None:
    def opinion(text: str, options: dict[str, str]) -> dict[str, float]:
        """Sure of what is wet, not of what is dry, and of neither when asked again."""
        sure = 0.8 if "wet" in text else 0.1
        chances = {CORRECT: sure, INCORRECT: 0.9 - sure, UNSURE: 0.1}
        if "Think again" in text:
            chances = {CORRECT: sure / 2, INCORRECT: 0.45 - sure / 2, UNSURE: 0.55}
        return {letter: chances[shown] for letter, shown in options.items()}

    thinks(opinion)
    wet, none, dry = await beliefs(
        engine,
        conversation("What is water?", "It is wet."),
        conversation("What is water?", ""),
        conversation("Hello", "Hi", "What is water?", "It is dry."),
    )
    assert isinstance(none, EngineFailure)
    assert none.reason == "EMPTY_RESPONSE"
    for belief, first, again in (
        (wet, (0.8, 0.1, 0.1), (0.4, 0.05, 0.55)),
        (dry, (0.1, 0.8, 0.1), (0.05, 0.4, 0.55)),
    ):
        for verdict, expected in zip(probabilities(belief), [first] * 3 + [again] * 3, strict=True):
            assert verdict == pytest.approx(expected, abs=1e-6)
    assert isinstance(dry, Belief)
    assert dry.response.message_index == 3, "the likelihood is that of the last response"


def test_a_turn_and_its_opposite_are_none() -> None:
    assert _rotated(VERDICTS, 0) == VERDICTS == ("correct", "incorrect", "not sure")
    assert _rotated(VERDICTS, 1) == ("incorrect", "not sure", "correct")
    assert _rotated(VERDICTS, 2) == ("not sure", "correct", "incorrect")
    assert _rotated(VERDICTS, -1) == ("not sure", "correct", "incorrect")
    for turn in range(-3, 4):
        assert _rotated(_rotated(VERDICTS, turn), -turn) == VERDICTS
        assert _rotated(VERDICTS, turn + 3) == _rotated(VERDICTS, turn)


LOSS = SampleLoss((TurnLoss(1, 0.5, np.array([7], np.int32), np.array([-0.5], np.float32)),), 9)


def test_a_verdict_is_turned_with_its_own_mass() -> None:
    choices = [Choice((0.7, 0.2, 0.1), mass / 10) for mass in range(1, 7)]
    belief = _belief(LOSS, choices)
    assert isinstance(belief, Belief)
    assert belief.response == LOSS.turns[-1]
    assert belief.verdicts == (
        Choice((0.7, 0.2, 0.1), 0.1),
        Choice((0.1, 0.7, 0.2), 0.2),
        Choice((0.2, 0.1, 0.7), 0.3),
        Choice((0.7, 0.2, 0.1), 0.4),
        Choice((0.1, 0.7, 0.2), 0.5),
        Choice((0.2, 0.1, 0.7), 0.6),
    )
    assert belief.covered_mass == pytest.approx(0.35)


def test_a_question_without_an_answer_leaves_no_belief() -> None:
    failure = EngineFailure("NOT_FINITE", "nan")
    for place in range(6):
        choices: list[Choice | EngineFailure] = [Choice((0.7, 0.2, 0.1), 0.9)] * 6
        choices[place] = failure
        assert _belief(LOSS, choices) is failure
