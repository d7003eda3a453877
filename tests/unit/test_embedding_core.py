"""What is embedded, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from burnish_services.embedding.collection import TextRecord
from burnish_services.embedding.core import Passage, Plan, Reading, passage, read_passages, reusable, text_digest
from burnish_services.embedding.settings import ActivationSettings, Source
from burnish_services.engine.base import EngineFailure, LoadedModel, ScoreRequest, TokenScores
from burnish_services.engine.fake.tokenizer import FakeTokenizer
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
    """Embeds as (number of tokens, last token); text with a `?` not at all. Reads as what it was asked for."""

    tokenizer: Any = field(default_factory=LetterTokenizer)
    model: LoadedModel = field(default_factory=lambda: LoadedModel("/m", "sha256:0", "float32", 6, 256))
    calls: int = 0
    asked: list[ScoreRequest] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    async def embed(self, sequences: Sequence[Sequence[int]]) -> list[Any]:
        self.calls += 1
        return [self._embed(ids) for ids in sequences]

    def _embed(self, ids: Sequence[int]) -> Any:
        if ord("?") in ids:
            return EngineFailure("BUSY", "not now", retryable=True)
        return np.array([len(ids), ids[-1]], np.float32)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[TokenScores]:
        self.asked = list(requests)
        none = np.empty(0, np.float32)
        return [
            TokenScores(
                none,
                mean_hidden=np.array([count(request.mean_hidden)], np.float32) if request.mean_hidden else None,
                activations=None
                if request.activations is None
                else np.array([[count(request.activations.spans)]], np.float32),
            )
            for request in requests
        ]


def count(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - start for start, end in spans)


USER = Plan(Source.USER)


async def embed(engine: LetterEngine, truncate: bool = False, **texts: str) -> dict[str, Reading | EngineFailure]:
    passages = {item: Passage(text, turns(text)) for item, text in texts.items()}
    return await read_passages(engine, passages, USER, CallRecord(""), truncate=truncate)  # type: ignore[arg-type]


def text_of(messages: list[ChatMessage]) -> str:
    found = passage(messages, USER)
    assert isinstance(found, Passage)
    return found.text


def test_all_user_messages_and_nothing_else_are_the_text() -> None:
    assert text_of(turns("one", "no", "two\n", "no", " three", system="no")) == "one\ntwo\n\n three"
    assert text_of(turns("only the question")) == "only the question"
    assert text_of(turns("asked", "")) == "asked"  # an empty response is none of the embedding's concern


def test_of_a_conversation_all_is_the_text() -> None:
    plan = Plan(Source.RESPONSE)
    variants = [turns("one", "two"), turns("one", "too"), turns("one", "two", system=""), turns("", "onetwo")]
    found = [passage(messages, plan) for messages in variants]
    assert len({one.text for one in found if isinstance(one, Passage)}) == len(variants)


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
    failure = passage(messages, USER)
    assert isinstance(failure, EngineFailure)
    assert failure.reason == reason


def vector(reading: Reading | EngineFailure) -> list[float]:
    assert isinstance(reading, Reading)
    assert reading.vector is not None
    return [float(number) for number in reading.vector]


async def test_each_text_has_its_own_result() -> None:
    engine = LetterEngine()
    results = await embed(engine, good="abc", absent="a?", long="abcdef")
    good, absent, long = (results[name] for name in ("good", "absent", "long"))
    assert isinstance(good, Reading)
    assert good.record == TextRecord(text_digest("abc"), 4, False)
    assert vector(good) == [4.0, ord("c")]
    assert list(results) == ["good", "absent", "long"]
    assert absent == EngineFailure("BUSY", "not now", retryable=True)
    assert isinstance(long, EngineFailure)
    assert long.reason == "TOO_LONG"
    assert "7 tokens, at most 6" in long.message
    assert good.activations is None
    assert engine.calls == 1


async def test_the_longest_text_that_fits_is_not_cut() -> None:
    results = await embed(LetterEngine(), truncate=True, fits="abcde", long="abcdefghi")
    fits, long = results["fits"], results["long"]
    assert isinstance(fits, Reading)
    assert isinstance(long, Reading)
    assert (fits.record.num_tokens, fits.record.truncated) == (6, False)
    assert (long.record.num_tokens, long.record.truncated) == (6, True)
    assert long.record.digest == text_digest("abcdefghi")
    assert vector(long) == [6.0, ord("e")]


async def test_a_cut_text_keeps_the_token_that_the_tokenizer_ends_with() -> None:
    results = await embed(LetterEngine(LetterTokenizer(eos=True)), truncate=True, long="abcdefghi")
    long = results["long"]
    assert isinstance(long, Reading)
    assert vector(long) == [6.0, 2.0]


async def test_a_text_whose_tokens_need_not_be_counted_is_refused_even_where_texts_are_cut() -> None:
    class Uncalled:
        def encode(self, text: str, *, add_special_tokens: bool = False) -> Encoding:
            raise AssertionError("as lists of numbers tokens take far more memory than the text")

    engine = LetterEngine(tokenizer=Uncalled())
    (found,) = (await embed(engine, truncate=True, long="x" * (256 * engine.model.max_model_len + 1))).values()
    assert isinstance(found, EngineFailure)
    assert found.reason == "TOO_LONG"


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


CHAT = FakeTokenizer()
TWO_TURNS = turns("What is it?", "It is a red house.", "And now?", "Now it is a blue one.")


async def read(plan: Plan, *conversations: list[ChatMessage], limit: int = 512, truncate: bool = False) -> LetterEngine:
    engine = LetterEngine(CHAT, LoadedModel("/m", "sha256:0", "float32", limit, 50_000))
    passages = {str(number): passage(messages, plan) for number, messages in enumerate(conversations)}
    engine.results = await read_passages(engine, passages, plan, CallRecord(""), truncate=truncate)  # type: ignore
    return engine


def words_at(request: ScoreRequest, spans: Sequence[tuple[int, int]]) -> str:
    return CHAT.decode([token for span in spans for token in request.token_ids[slice(*span)]])


async def test_sources_name_the_tokens_of_a_conversation() -> None:
    for source, there, not_there in (
        (Source.RESPONSE, ["red house", "blue one"], ["What", "now?"]),
        (Source.ALL, ["What is it?", "red house", "And now?", "blue one"], []),
    ):
        engine = await read(Plan(source), TWO_TURNS)
        (request,) = engine.asked
        text = words_at(request, request.mean_hidden)
        assert all(words in text for words in there)
        assert not any(words in text for words in not_there)
        (reading,) = engine.results.values()
        assert reading.record.num_tokens == count(request.mean_hidden) == vector(reading)[0]
        assert (request.first_scored, request.activations, engine.calls) == (len(request.token_ids), None, 0)


async def test_activations_come_from_one_pass_and_leave_the_first_token_out() -> None:
    for source, start in ((Source.ALL, 1), (Source.RESPONSE, 5), (Source.USER, 2)):
        engine = await read(Plan(Source.ALL, ActivationSettings(source)), TWO_TURNS)
        (request,) = engine.asked
        assert request.activations is not None
        assert request.activations.spans[0][0] >= start
        assert request.mean_hidden[0][0] == 0
        (reading,) = engine.results.values()
        assert reading.num_pooled == count(request.activations.spans) == reading.activations[0, 0]
    (request,) = (await read(Plan(None, ActivationSettings(Source.USER)), TWO_TURNS)).asked
    text = words_at(request, request.activations.spans)
    assert "What is it?" in text
    assert "red" not in text
    assert request.mean_hidden == ()


async def test_a_short_response_is_read_with_the_tokens_before_it() -> None:
    plan = Plan(None, ActivationSettings())
    for words, pooled in (("So", 4), ("So it is because of that", None)):
        engine = await read(plan, turns("Why is it?", words))
        (request,) = engine.asked
        assert request.activations is not None
        ((start, end),) = request.activations.spans
        (reading,) = engine.results.values()
        assert words in words_at(request, request.activations.spans)
        assert reading.num_pooled == end - start >= 4
        assert pooled in (None, end - start), "no more than there must be"
    # What several turns have together is enough.
    (request,) = (await read(plan, turns("Why?", "So", "And why not?", "No"))).asked
    assert request.activations is not None
    assert len(request.activations.spans) == 2
    assert all(end - start < 4 for start, end in request.activations.spans)


async def test_the_user_text_alone_and_activations_take_two_passes() -> None:
    engine = await read(Plan(Source.USER, ActivationSettings()), TWO_TURNS)
    (reading,) = engine.results.values()
    assert engine.calls == 1
    assert (
        vector(reading)[0]
        == reading.record.num_tokens
        == len(CHAT.encode("What is it?\nAnd now?", add_special_tokens=True).ids)
    )
    assert engine.asked[0].mean_hidden == ()


async def test_long_conversations_are_cut_for_activations_and_refused_without() -> None:
    long = turns("Why?", "because " * 40)
    engine = await read(Plan(Source.ALL, ActivationSettings(Source.ALL, max_tokens=20)), long)
    (reading,) = engine.results.values()
    assert (len(engine.asked[0].token_ids), reading.record.truncated, reading.num_pooled) == (20, True, 19)
    (refused,) = (await read(Plan(Source.ALL), long, limit=20)).results.values()
    assert refused.reason == "TOO_LONG"
    (cut,) = (await read(Plan(Source.ALL), long, limit=20, truncate=True)).results.values()
    assert cut.record == TextRecord(cut.record.digest, 20, True)
    hidden = turns("because " * 40, "Yes.")
    (late,) = (await read(Plan(Source.RESPONSE), hidden, limit=20, truncate=True)).results.values()
    assert late.reason == "TOO_LONG"
    (few,) = (await read(Plan(None, ActivationSettings(max_tokens=20)), hidden)).results.values()
    assert (few.reason, few.message[:8]) == ("TOO_SHORT", "0 tokens")


async def test_conversations_that_cannot_be_read_are_named() -> None:
    engine = await read(Plan(Source.ALL), turns("asked"), turns("asked", " "), TWO_TURNS)
    reasons = [getattr(result, "reason", "") for result in engine.results.values()]
    assert reasons == ["BAD_ROLES", "EMPTY_RESPONSE", ""]
    (empty,) = (await read(Plan(Source.USER, ActivationSettings()), turns(" ", "an answer"))).results.values()
    assert empty.reason == "EMPTY_PROMPT"
