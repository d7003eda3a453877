"""Ratings from one pass each: the expectation of a digit that may follow a fixed lead-in. Knows no RPC."""

from __future__ import annotations

from collections.abc import Sequence

from burnish_services.engine.base import Engine, EngineFailure
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.scoring.choosing import Choice, Question, choose
from burnish_services.scoring.judging import Rated
from burnish_services.scoring.material import no_response, refusal
from burnish_services.scoring.rating import HIGHEST, Dimension, Target

DIGITS = tuple("0123456789")
LEAD_IN = "Rating: ("


async def rate_conversations(
    engine: Engine,
    prompts: PromptFiles,
    conversations: Sequence[Sequence[ChatMessage]],
    dimensions: Sequence[Dimension],
    targets: Sequence[Target],
    record: CallRecord,
) -> list[list[Rated] | EngineFailure]:
    """As `judging.judge_conversations`, without chance."""
    refused = [refusal(messages) for messages in conversations]
    asked = (
        _question(prompts, messages, dimension, target)
        for messages, failure in zip(conversations, refused, strict=True)
        if failure is None
        for dimension in dimensions
        for target in targets
    )
    choices = iter(await choose(engine, asked, record))
    return [failure or [_rated(d, t, next(choices)) for d in dimensions for t in targets] for failure in refused]


def expected_rating(probabilities: Sequence[float]) -> float:
    """Σ p_d · d · 10/9 over the digits, in [0, 10]."""
    return HIGHEST / 9 * sum(digit * probability for digit, probability in enumerate(probabilities))


def _rated(dimension: Dimension, target: Target, choice: Choice | EngineFailure) -> Rated:
    if isinstance(choice, EngineFailure):
        return Rated(dimension, target, None, failure=choice)
    return Rated(dimension, target, expected_rating(choice.probabilities), digits=choice)


def _question(
    prompts: PromptFiles, messages: Sequence[ChatMessage], dimension: Dimension, target: Target
) -> Question | EngineFailure:
    failure = no_response(messages) if target is Target.RESPONSE else None
    if failure is not None:
        return failure
    text = prompts.render("rate", messages=messages, dimension=str(dimension), target=str(target))
    return Question([ChatMessage("user", text)], LEAD_IN, DIGITS)
