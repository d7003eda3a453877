"""What a judge is asked and how its reply is read. Pure, but for reading the prompt files once.

Middo's self-alignment: three dimensions, each of the prompt alone and of the response to it; the first number in the
reply, clamped to [0, 10], is the rating. A reply without a number has no rating: it is reported, never a default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.prompts import PromptFiles

LOWEST, HIGHEST = 0.0, 10.0
_NUMBER = re.compile(r"\d+\.\d+|\d+")


class Dimension(StrEnum):
    """What is rated."""

    CLARITY = "clarity"
    COMPLETENESS = "completeness"
    FACTUALITY = "factuality"


class Target(StrEnum):
    """What is shown."""

    PROMPT = "prompt"
    RESPONSE = "response"


class JudgePrompts:
    """The judge's questions."""

    def __init__(self) -> None:
        self._files = PromptFiles("burnish_services.scoring")
        self.digest = self._files.digest(["judge", "question"])

    def conversation(self, messages: Sequence[ChatMessage], dimension: Dimension, target: Target) -> list[ChatMessage]:
        """What to ask about a conversation: worked examples, then the question as the last user message. With
        Target.PROMPT the assistant's messages are left out."""
        return self._files.render_turns("judge", messages=messages, dimension=str(dimension), target=str(target))


def parse_rating(reply: str) -> float | None:
    """The first decimal or whole number anywhere in the reply, clamped to [0, 10]; None where there is none.

    A sign is not part of the number ("Clarity - 7" is 7), a comma is no decimal point, digits of any script count.
    """
    found = _NUMBER.search(reply)
    return None if found is None else min(max(float(found.group()), LOWEST), HIGHEST)
