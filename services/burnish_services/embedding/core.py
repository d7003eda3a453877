"""What is read of a sample and what counts as a result: samples in, vectors and activations or named failures out.
Knows no RPC, no store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.collection import TextRecord
from burnish_services.embedding.settings import ActivationSettings, Source
from burnish_services.engine.base import Activations, Engine, EngineFailure, ScoreRequest
from burnish_services.engine.chat import (
    EMPTY_PROMPT,
    TOO_LONG,
    SampleError,
    Span,
    check_size,
    span_positions,
    tokenize_sample,
    validate_messages,
)
from burnish_services.engine.failures import checked
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer, Encoding
from burnish_services.runtime.calls import CallRecord

TOO_SHORT = "TOO_SHORT"
_LEAST_TOKENS = 4  # that activations are pooled over: fewer say little of a sample, and much of one token
_FIRST_TOKEN = 1  # that counts: on the one before models dump what they attend to nowhere else
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read of each sample: the mean hidden state over `source`, None where none is wanted, and its neurons'
    activations, where wanted."""

    source: Source | None
    activations: ActivationSettings | None = None

    @property
    def reads_conversation(self) -> bool:
        """Whether the conversation is read, as the model's chat template writes it."""
        return self.activations is not None or self.source not in (Source.USER, None)


@dataclass(frozen=True, slots=True)
class Passage:
    """One sample to read. `text` is all that the result depends on besides the weights."""

    text: str
    messages: Sequence[ChatMessage]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What was read of one sample, finite float32; what the plan did not want is None."""

    record: TextRecord
    vector: NDArray[np.float32] | None = None  # (dimension,), not normalised
    activations: NDArray[np.float32] | None = None  # (layers, neurons)
    num_pooled: int = 0  # tokens that the activations are of


def passage(messages: Sequence[ChatMessage], plan: Plan) -> Passage | EngineFailure:
    """What of a sample is read. Failures: BAD_ROLES, and EMPTY_PROMPT where only the user's text is wanted and there is
    nothing but white space."""
    if plan.reads_conversation:
        return Passage(json.dumps([[message.role, message.content] for message in messages]), messages)
    try:
        validate_messages(messages)
        return Passage(_user_text(messages), messages)
    except SampleError as error:
        return EngineFailure(error.reason, error.message)


def text_digest(text: str) -> str:
    """What tells whether a stored vector is still that of the text: sha256, 64 hex digits."""
    return sha256(text.encode()).hexdigest()


def reusable(text: str, stored: TextRecord | None, *, truncate: bool) -> TextRecord | EngineFailure | None:
    """What is known of `text` from the vector stored under its id: its record, or None where it must be embedded.
    TOO_LONG where the vector is of a cut text and the request does not want it cut."""
    if stored is None or stored.digest != text_digest(text):
        return None
    if stored.truncated and not truncate:
        return EngineFailure(
            TOO_LONG,
            f"the text is longer than the context, and the stored vector is of its first {stored.num_tokens} tokens "
            "only; shorten it, or set truncate",
        )
    return stored


async def read_passages(
    engine: Engine, passages: Mapping[str, Passage], plan: Plan, record: CallRecord, *, truncate: bool = False
) -> dict[str, Reading | EngineFailure]:
    """Reads passages by id, all submitted to the engine together.

    The user's text alone has the tokenizer's default special tokens and no template; the mean is over all tokens of
    it. What is longer than the context fails with TOO_LONG, or is cut at its end with `truncate`, unless it has more
    than 256 characters for each token of the context. Where activations are
    read, conversations are cut at their `max_tokens` in any case; the first token does not count, and what has fewer
    than 4 others is read together with those before it, so that there are 4. TOO_SHORT where none is among the first
    `max_tokens`, or there are no 4. Other failures: those of `tokenize_sample` and the engine's, NOT_FINITE among them.
    Time and tokens go to `record`.
    """
    limit = engine.model.max_model_len
    encoded = await asyncio.to_thread(_encode_all, engine.tokenizer, passages, plan, limit, truncate)
    results: dict[str, Reading | EngineFailure] = {}
    fitting: dict[str, _Encoded] = {}
    for item, one in encoded.items():
        if isinstance(one, EngineFailure):
            results[item] = one
        else:
            fitting[item] = one
    tokens = sum(len(one.alone) + len(one.ids) for one in fitting.values())
    with record.in_engine(prompt_tokens=tokens):
        alone = await _embed(engine, {item: one.alone for item, one in fitting.items() if one.alone})
        inside = await _score(engine, {item: one.request for item, one in fitting.items() if one.ids})
    for item, one in fitting.items():
        results[item] = _reading(one, text_digest(passages[item].text), alone.get(item), inside.get(item))
    return {item: results[item] for item in passages}


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A passage as tokens: the user's text `alone`, and the conversation's `ids`, empty where not read."""

    truncated: bool
    alone: Sequence[int] = ()
    ids: Sequence[int] = ()
    hidden: Spans = ()
    neurons: Spans = ()
    settings: ActivationSettings | None = None

    @property
    def request(self) -> ScoreRequest:
        wanted = None if self.settings is None else Activations(self.neurons, self.settings.pooling)
        return ScoreRequest(self.ids, len(self.ids), mean_hidden=self.hidden, activations=wanted)


def _encode_all(
    tokenizer: ChatTokenizer, passages: Mapping[str, Passage], plan: Plan, limit: int, truncate: bool
) -> dict[str, _Encoded | EngineFailure]:
    encoded: dict[str, _Encoded | EngineFailure] = {}
    for item, one in passages.items():
        try:
            encoded[item] = _encode(tokenizer, one, plan, limit, truncate)
        except SampleError as error:
            encoded[item] = EngineFailure(error.reason, error.message)
    return encoded


def _encode(tokenizer: ChatTokenizer, one: Passage, plan: Plan, limit: int, truncate: bool) -> _Encoded:
    check_size(one.messages if plan.reads_conversation else [ChatMessage("user", one.text)], limit)
    alone: list[int] = []
    too_long = False
    if plan.source is Source.USER:
        text = one.text if not plan.reads_conversation else _user_text(one.messages)
        encoding = tokenizer.encode(text, add_special_tokens=True)
        too_long = _check_length(len(encoding.ids), limit, truncate, "text")
        alone = _cut(encoding, limit)
    if not plan.reads_conversation:
        return _Encoded(too_long, alone)
    sample = tokenize_sample(tokenizer, one.messages)
    settings = plan.activations
    most = limit if settings is None else min(limit, settings.max_tokens)
    too_long |= _check_length(len(sample.ids), most, truncate or settings is not None, "conversation")
    hidden, neurons = Spans(), Spans()
    if plan.source not in (Source.USER, None):
        hidden = _clip(span_positions(sample, Span(plan.source)), 0, most)
        if not hidden:
            raise SampleError(TOO_LONG, f"the response begins after the first {most} tokens; shorten the prompt")
    if settings is not None:
        neurons = _widened(_clip(span_positions(sample, Span(settings.source)), _FIRST_TOKEN, most))
        if _length(neurons) < _LEAST_TOKENS:
            raise SampleError(
                TOO_SHORT,
                f"{_length(neurons)} tokens to read the {settings.source.value}'s activations from are among the first "
                f"{most}, expected at least {_LEAST_TOKENS}",
            )
    return _Encoded(too_long, alone, sample.ids[:most], hidden, neurons, settings)


async def _embed(engine: Engine, texts: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32] | EngineFailure]:
    return dict(zip(texts, await engine.embed(list(texts.values())), strict=True)) if texts else {}


async def _score(
    engine: Engine, requests: Mapping[str, ScoreRequest]
) -> dict[str, tuple[NDArray[np.float32] | None, NDArray[np.float32] | None] | EngineFailure]:
    answers = await engine.score(list(requests.values())) if requests else []
    return {
        item: answer if isinstance(answer, EngineFailure) else (answer.mean_hidden, answer.activations)
        for item, answer in zip(requests, answers, strict=True)
    }


def _reading(
    one: _Encoded,
    digest: str,
    alone: NDArray[np.float32] | EngineFailure | None,
    inside: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None] | EngineFailure | None,
) -> Reading | EngineFailure:
    if isinstance(alone, EngineFailure):
        return alone
    if isinstance(inside, EngineFailure):
        return inside
    hidden, activations = inside if inside is not None else (None, None)
    for numbers in (alone, hidden, activations):
        if numbers is not None and isinstance(failure := checked(numbers), EngineFailure):
            return failure
    num_tokens = len(one.alone) or _length(one.hidden)
    vector = alone if alone is not None else hidden
    record = TextRecord(digest, num_tokens, one.truncated)
    return Reading(record, vector, activations, _length(one.neurons))


def _user_text(messages: Sequence[ChatMessage]) -> str:
    text = "\n".join(message.content for message in messages if message.role == "user")
    if not text.strip():
        raise SampleError(EMPTY_PROMPT, "the user messages are empty; there is nothing to embed")
    return text


def _check_length(length: int, limit: int, truncate: bool, what: str) -> bool:
    """Whether it must be cut. Raises SampleError where it must not."""
    if length > limit and not truncate:
        raise SampleError(
            TOO_LONG, f"the {what} has {length} tokens, at most {limit} fit the context; shorten it, or set truncate"
        )
    return length > limit


def _clip(spans: Spans, first: int, end: int) -> Spans:
    inside = ((max(start, first), min(stop, end)) for start, stop in spans)
    return tuple((start, stop) for start, stop in inside if start < stop)


def _widened(spans: Spans) -> Spans:
    """Where there are too few tokens to pool over, together with those before the first of them."""
    missing = _LEAST_TOKENS - _length(spans)
    if not spans or missing <= 0:
        return spans
    (start, end), *others = spans
    return ((max(_FIRST_TOKEN, start - missing), end), *others)


def _length(spans: Spans) -> int:
    return sum(end - start for start, end in spans)


def _cut(encoding: Encoding, limit: int) -> list[int]:
    """The first `limit` tokens; what the tokenizer adds at the end (an EOS) stays at the end."""
    ids = encoding.ids
    if len(ids) <= limit:
        return ids
    tail = 0
    while tail < limit - 1 and encoding.spans[-1 - tail][0] == encoding.spans[-1 - tail][1]:
        tail += 1
    return ids[: limit - tail] + ids[len(ids) - tail :]
