"""What the model thinks of a given response, in one pass each: how likely it is, and whether it is right.

Self-reflection asks two multiple-choice questions in all three cyclic orders of the answers, so that a liking for a
letter cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from burnish_services.engine.base import Engine, EngineFailure
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.scoring.choosing import Choice, Question, choose
from burnish_services.scoring.core import Wanted, score_conversations
from burnish_services.scoring.losses import SampleLoss, TurnLoss

VERDICTS = ("correct", "incorrect", "not sure")
LETTERS = ("A", "B", "C")
LEAD_IN = "Answer: ("
_QUESTIONS = (1, 2)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Belief:
    """The likelihood of the last response, and p(correct), p(incorrect), p(not sure) of each question in each order."""

    response: TurnLoss
    verdicts: tuple[Choice, ...]

    @property
    def covered_mass(self) -> float:
        """Mean over the questions, in [0, 1]."""
        return sum(verdict.covered_mass for verdict in self.verdicts) / len(self.verdicts)


async def believe(
    engine: Engine, prompts: PromptFiles, conversations: Sequence[Sequence[ChatMessage]], record: CallRecord
) -> list[Belief | EngineFailure]:
    """One belief per conversation, or the first reason why there is none."""
    losses = await score_conversations(engine, conversations, Wanted(), record)
    scored = (messages for messages, loss in zip(conversations, losses, strict=True) if isinstance(loss, SampleLoss))
    asked = (question for messages in scored for question in _questions(prompts, messages))
    choices = iter(await choose(engine, asked, record))
    results: list[Belief | EngineFailure] = []
    for loss in losses:
        if isinstance(loss, EngineFailure):
            results.append(loss)
            continue
        results.append(_belief(loss, [next(choices) for _ in range(len(_QUESTIONS) * len(VERDICTS))]))
    return results


def _questions(prompts: PromptFiles, messages: Sequence[ChatMessage]) -> list[Question | EngineFailure]:
    questions: list[Question | EngineFailure] = []
    for number in _QUESTIONS:
        for turn in range(len(VERDICTS)):
            order = _rotated(VERDICTS, turn)
            text = prompts.render("reflect", messages=messages, question=number, order=order, letters=LETTERS)
            questions.append(Question([ChatMessage("user", text)], LEAD_IN, LETTERS))
    return questions


def _belief(loss: SampleLoss, choices: Sequence[Choice | EngineFailure]) -> Belief | EngineFailure:
    verdicts = []
    for index, choice in enumerate(choices):
        if isinstance(choice, EngineFailure):
            return choice
        turn = index % len(VERDICTS)
        # The letters' probabilities are in the order shown; verdicts are in their own.
        verdicts.append(Choice(_rotated(choice.probabilities, -turn), choice.covered_mass))
    return Belief(loss.turns[-1], tuple(verdicts))


def _rotated(values: tuple[T, ...], by: int) -> tuple[T, ...]:
    by %= len(values)
    return values[by:] + values[:by]
