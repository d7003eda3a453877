"""Which of two responses the model prefers, asked in both orders. Knows no RPC.

A judge prefers a place, and what is longer; so the mean over both orders is the probability, a win must be one in both,
and how often the orders disagree is told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from burnish_services.engine.base import Engine, EngineFailure
from burnish_services.engine.chat import BAD_ROLES, EMPTY_PROMPT, EMPTY_RESPONSE, SampleError, validate_messages
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.scoring.answers import words
from burnish_services.scoring.choosing import Choice, Question, choose
from burnish_services.scoring.confidence import preference
from burnish_services.scoring.reflecting import LEAD_IN, LETTERS

LETTERS_UNLIKELY = "LETTERS_UNLIKELY"


class Winner(StrEnum):
    """The verdict on a pair."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to the conversation `prompt`, which ends in the user's message."""

    prompt: Sequence[ChatMessage]
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Preference:
    """The verdict; `orders` are p(first), p(second), p(tie), as shown with the first and with the second in front."""

    p_second: float
    winner: Winner
    orders: tuple[Choice, Choice]
    flipped: bool
    log_length_ratio: float
    length_guarded: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """`max_length_ratio` 0: no guard."""

    max_length_ratio: float = 0.0
    min_covered_mass: float = 0.5


async def compare_pairs(
    engine: Engine, prompts: PromptFiles, pairs: Sequence[Pair], rules: Rules, record: CallRecord
) -> list[Preference | EngineFailure]:
    """One verdict per pair, or why there is none."""
    asked = (question for pair in pairs for question in _questions(prompts, pair))
    choices = iter(await choose(engine, asked, record))
    return [_verdict(pair, next(choices), next(choices), rules) for pair in pairs]


def decide(pair: Pair, shown_first: Choice, shown_second: Choice, rules: Rules) -> Preference:
    """The verdict from both orders; the second order's letters stand for the exchanged responses."""
    second, first, tie = shown_second.probabilities
    orders = (shown_first, Choice((first, second, tie), shown_second.covered_mass))
    p_second = preference([_three(order) for order in orders])
    # The two compared, not one with ½: that would depend on how the sum of the three rounds.
    leads = [order.probabilities[1] - order.probabilities[0] for order in orders]
    flipped = min(leads) < 0 < max(leads)
    winner = Winner.SECOND if min(leads) > 0 else Winner.FIRST if max(leads) < 0 else Winner.TIE
    first_words, second_words = max(words(pair.first), 1), max(words(pair.second), 1)
    ratio = math.log(second_words / first_words)
    longer = Winner.SECOND if second_words > first_words else Winner.FIRST
    # Not by the logarithm, which rounds: exactly the ratio is not beyond it.
    beyond = max(first_words, second_words) / min(first_words, second_words)
    guarded = 1.0 <= rules.max_length_ratio < beyond and winner is longer
    if pair.first.strip() == pair.second.strip():
        winner = Winner.TIE
    return Preference(p_second, Winner.TIE if guarded else winner, orders, flipped, ratio, guarded)


def flip_rate(preferences: Sequence[Preference | EngineFailure]) -> float:
    """Share of the verdicts whose orders disagree, in [0, 1]; 0 of none."""
    flips = [one.flipped for one in preferences if isinstance(one, Preference)]
    return sum(flips) / len(flips) if flips else 0.0


def _verdict(
    pair: Pair, shown_first: Choice | EngineFailure, shown_second: Choice | EngineFailure, rules: Rules
) -> Preference | EngineFailure:
    if isinstance(shown_first, EngineFailure):
        return shown_first
    if isinstance(shown_second, EngineFailure):
        return shown_second
    covered = (shown_first.covered_mass + shown_second.covered_mass) / 2
    if covered < rules.min_covered_mass:
        return EngineFailure(
            LETTERS_UNLIKELY,
            f"the letters of the answers had {covered:.2f} of the probability, at least {rules.min_covered_mass:.2f} "
            "expected: the model did not mean to choose; a larger model or a lower min_covered_mass may help",
        )
    return decide(pair, shown_first, shown_second, rules)


def _three(choice: Choice) -> tuple[float, float, float]:
    first, second, tie = choice.probabilities
    return first, second, tie


def _questions(prompts: PromptFiles, pair: Pair) -> list[Question | EngineFailure]:
    failure = _refused(pair)
    if failure is not None:
        return [failure, failure]
    return [
        Question(
            [ChatMessage("user", prompts.render("compare", messages=pair.prompt, first=one, second=other))],
            LEAD_IN,
            LETTERS,
        )
        for one, other in ((pair.first, pair.second), (pair.second, pair.first))
    ]


def _refused(pair: Pair) -> EngineFailure | None:
    try:
        validate_messages(pair.prompt)
    except SampleError as error:
        return EngineFailure(error.reason, error.message)
    if pair.prompt[-1].role != "user":
        return EngineFailure(
            BAD_ROLES, "the prompt ends in the assistant's message; expected the user's, to respond to"
        )
    if not pair.prompt[-1].content.strip():
        return EngineFailure(EMPTY_PROMPT, "the last user message is empty; there is nothing to respond to")
    if not (pair.first.strip() and pair.second.strip()):
        return EngineFailure(EMPTY_RESPONSE, "a response is empty; there is nothing to compare")
    return None
