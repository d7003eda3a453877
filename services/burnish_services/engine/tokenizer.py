"""The tokenizer protocol that `chat.py` needs: one for Hugging Face tokenizers, one for the fake engine.

Kept apart from the engines so that turning a conversation into tokens, and knowing exactly which of them the
assistant must produce, is written once (`chat.py`) for scoring and training alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids and, for each, its half-open character span [start, end) in the text."""

    ids: list[int]
    spans: list[tuple[int, int]]


class ChatTokenizer(Protocol):
    """Text to tokens and back, and the model's chat template. Implementations must be safe to call from threads."""

    @property
    def template_digest(self) -> str:
        """First 16 hex digits of the sha256 of the chat template in use."""

    @property
    def end_tokens(self) -> frozenset[str]:
        """Texts of tokens that end a turn, such as `<|im_end|>` or `</s>`."""

    @property
    def special_texts(self) -> tuple[str, ...]:
        """Texts of the tokens that control the model, which no message may smuggle in (`literals.py`)."""

    def render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        """The conversation as the model's chat template writes it, BOS included where the template writes one.
        Raises `chat.TemplateError` with the template's own complaint."""

    def encode(
        self, text: str, *, add_special_tokens: bool = False, literals: Mapping[str, str] | None = None
    ) -> Encoding:
        """Tokens of `text`; special tokens that stand in the text are recognised as such. With `add_special_tokens`
        the tokenizer's defaults (a BOS, say) are added, with empty spans. `literals`: what the text's placeholders
        stand for, spelt out as plain text (`literals.guard`); not together with `add_special_tokens`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
