"""What is asked of the rewriter: Middo's three strategies, two calls each, in prompt files.

The first call asks for a new prompt behind a marker, the second for an answer to it. The old answer is never
shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from burnish_services.engine.chat import BAD_ROLES, EMPTY_PROMPT, SampleError, validate_messages
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.rewriting.validation import MARKER, Original
from burnish_services.rewriting.words import OwnWords
from burnish_services.runtime.prompts import PromptFiles


class Strategy(StrEnum):
    """What a rewrite is for."""

    SIMPLIFY = "simplify"  # too hard for the model: a prompt that it can learn from
    IMPROVE = "improve"  # poor quality: a better prompt
    DIVERSIFY = "diversify"  # sparse region: a new prompt beside it


@dataclass(frozen=True, slots=True)
class Material:
    """What a rewrite starts from: all of the user's text, the system message if any, and neighbours' user
    texts."""

    prompt: str
    system: str | None = None
    neighbors: tuple[str, ...] = ()


def material_of(messages: Sequence[ChatMessage], neighbors: Sequence[Sequence[ChatMessage]] = ()) -> Material:
    """The material in a conversation and its neighbours. Raises SampleError: BAD_ROLES, EMPTY_PROMPT."""
    validate_messages(messages)
    prompt = _user_text(messages)
    if not prompt:
        raise SampleError(EMPTY_PROMPT, "the user's messages are empty; there is nothing to rewrite")
    hints = tuple(_user_text(neighbor) for neighbor in neighbors)
    if not all(hints):
        raise SampleError(BAD_ROLES, f"neighbour {hints.index('')} has no user text; expected a user message")
    system = messages[0].content if messages[0].role == "system" else None
    return Material(prompt, system, hints)


def _user_text(messages: Sequence[ChatMessage]) -> str:
    return "\n".join(message.content for message in messages if message.role == "user").strip()


class RewritePrompts:
    """The rewriter's questions."""

    def __init__(self) -> None:
        self._files = PromptFiles("burnish_services.rewriting")
        self._own_words = {strategy: self._words_of(strategy) for strategy in Strategy}

    def version(self, strategy: Strategy) -> str:
        """`<strategy>/<16 hexadecimal digits over the files it uses>`."""
        return f"{strategy}/{self._files.digest([str(strategy), 'answer'])}"

    def new_prompt(self, strategy: Strategy, material: Material) -> list[ChatMessage]:
        """The first call: worked examples as turns of a conversation, then the material."""
        hints = material.neighbors if strategy is Strategy.DIVERSIFY else ()
        return self._files.render_turns(str(strategy), prompt=material.prompt, neighbors=hints, marker=MARKER)

    def answer(self, strategy: Strategy, material: Material, prompt: str) -> list[ChatMessage]:
        """The second call, under the sample's own system message."""
        return [*_system(material), *self._files.render_turns("answer", prompt=prompt, strategy=str(strategy))]

    def rewritten(self, material: Material, prompt: str, response: str) -> list[ChatMessage]:
        """The new sample."""
        return [*_system(material), ChatMessage("user", prompt), ChatMessage("assistant", response)]

    def original(self, strategy: Strategy, material: Material) -> Original:
        """What a new prompt and its answer are checked against."""
        hints = material.neighbors if strategy is Strategy.DIVERSIFY else ()
        return Original(material.prompt, hints, self._own_words[strategy])

    def _words_of(self, strategy: Strategy) -> OwnWords:
        bare = Material(prompt="", neighbors=("",))
        *examples, question = self.new_prompt(strategy, bare)
        asked = [question, *self.answer(strategy, bare, "")]
        return OwnWords(*("\n".join(turn.content for turn in turns) for turns in (asked, examples)))


def _system(material: Material) -> list[ChatMessage]:
    return [] if material.system is None else [ChatMessage("system", material.system)]
