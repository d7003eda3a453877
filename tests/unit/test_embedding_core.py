"""What is embedded, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from burnish_services.embedding.collection import EmbeddedText, TextRecord
from burnish_services.embedding.core import embed_texts, reusable, text_digest, user_text
from burnish_services.engine.base import EngineFailure, LoadedModel
from burnish_services.engine.tokenizer import ChatMessage, Encoding
from burnish_services.runtime.calls import CallRecord


def turns(*contents: str, system: str | None = None) -> list[ChatMessage]:
    roles = ["user", "assistant"]
    messages = [ChatMessage(roles[index % 2], content) for index, content in enumerate(contents)]
    return messages if system is None else [ChatMessage("system", system), *messages]


class LetterTokenizer:
    """A token for each letter, 1 at the beginning and, with `eos`, 2 at the end."""

    def __init__(self, eos: bool = False) -> None:
        self.eos = eos

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Encoding:
        assert add_special_tokens
        end = len(text)
        ids, spans = [1, *map(ord, text)], [(0, 0), *((place, place + 1) for place in range(end))]
        return Encoding([*ids, 2], [*spans, (end, end)]) if self.eos else Encoding(ids, spans)


@dataclass
class LetterEngine:
    """Embeds as (number of tokens, last token); text with a `!` as not finite, with a `?` not at all."""

    tokenizer: Any = field(default_factory=LetterTokenizer)
    model: LoadedModel = field(default_factory=lambda: LoadedModel("/m", "sha256:0", "float32", 6, 256))
    calls: int = 0

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[Any]:
        self.calls += 1
        return [self._embed(ids) for ids in sequences]

    def _embed(self, ids: Sequence[int]) -> Any:
        if ord("?") in ids:
            return EngineFailure("BUSY", "not now", retryable=True)
        return np.array([np.nan if ord("!") in ids else len(ids), ids[-1]], np.float32)


async def embed(engine: LetterEngine, truncate: bool = False, **texts: str) -> dict[str, EmbeddedText | EngineFailure]:
    return await embed_texts(engine, texts, CallRecord(""), truncate=truncate)  # type: ignore[arg-type]


def test_all_user_messages_and_nothing_else_are_the_text() -> None:
    assert user_text(turns("one", "no", "two\n", "no", " three", system="no")) == "one\ntwo\n\n three"
    assert user_text(turns("only the question")) == "only the question"
    assert user_text(turns("asked", "")) == "asked"  # an empty response is none of the embedding's concern


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (turns(""), "EMPTY_PROMPT"),
        (turns(" \n", "answer", "\t"), "EMPTY_PROMPT"),
        ([], "BAD_ROLES"),
        ([ChatMessage("assistant", "first")], "BAD_ROLES"),
        ([ChatMessage("", "unset")], "BAD_ROLES"),
        ([ChatMessage("user", "a"), ChatMessage("user", "b")], "BAD_ROLES"),
    ],
)
def test_samples_without_a_text_are_refused(messages: list[ChatMessage], reason: str) -> None:
    failure = user_text(messages)
    assert isinstance(failure, EngineFailure)
    assert failure.reason == reason


async def test_each_text_has_its_own_result() -> None:
    engine = LetterEngine()
    results = await embed(engine, good="abc", bad="a!", absent="a?", long="abcdef")
    good, bad, absent, long = (results[name] for name in ("good", "bad", "absent", "long"))
    assert isinstance(good, EmbeddedText)
    assert good.record == TextRecord(text_digest("abc"), 4, False)
    assert good.vector.tolist() == [4.0, ord("c")]
    assert isinstance(bad, EngineFailure)
    assert (bad.reason, bad.message[:6]) == ("NOT_FINITE", "1 of 2")
    assert absent == EngineFailure("BUSY", "not now", retryable=True)
    assert isinstance(long, EngineFailure)
    assert long.reason == "TOO_LONG"
    assert "7 tokens, at most 6" in long.message
    assert engine.calls == 1


async def test_the_longest_text_that_fits_is_not_cut() -> None:
    results = await embed(LetterEngine(), truncate=True, fits="abcde", long="abcdefghi")
    fits, long = results["fits"], results["long"]
    assert isinstance(fits, EmbeddedText)
    assert isinstance(long, EmbeddedText)
    assert (fits.record.num_tokens, fits.record.truncated) == (6, False)
    assert (long.record.num_tokens, long.record.truncated) == (6, True)
    assert long.record.digest == text_digest("abcdefghi")
    assert long.vector.tolist() == [6.0, ord("e")]


async def test_a_cut_text_keeps_the_token_that_the_tokenizer_ends_with() -> None:
    results = await embed(LetterEngine(LetterTokenizer(eos=True)), truncate=True, long="abcdefghi")
    long = results["long"]
    assert isinstance(long, EmbeddedText)
    assert long.vector.tolist() == [6.0, 2.0]


async def test_the_engine_is_not_asked_for_nothing() -> None:
    engine = LetterEngine()
    assert await embed(engine) == {}
    assert list(await embed(engine, long="abcdefgh")) == ["long"]
    assert engine.calls == 0


def test_a_stored_vector_is_reused_for_the_same_text_only() -> None:
    stored = TextRecord(text_digest("text"), 3, False)
    assert reusable("text", stored, truncate=False) is stored
    assert reusable("text", stored, truncate=True) is stored
    assert reusable("changed", stored, truncate=False) is None
    assert reusable("text", None, truncate=False) is None


def test_the_stored_vector_of_a_cut_text_is_reused_only_where_cutting_is_allowed() -> None:
    stored = TextRecord(text_digest("text"), 3, True)
    assert reusable("text", stored, truncate=True) is stored
    refused = reusable("text", stored, truncate=False)
    assert isinstance(refused, EngineFailure)
    assert refused.reason == "TOO_LONG"
    assert reusable("changed", stored, truncate=False) is None
