"""What is embedded and what counts as a result: samples in, vectors or named failures out. Knows no RPC, no store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np

from burnish_services.embedding.collection import EmbeddedText, TextRecord
from burnish_services.engine.base import Engine, EngineFailure
from burnish_services.engine.chat import EMPTY_PROMPT, TOO_LONG, SampleError, validate_messages
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer, Encoding
from burnish_services.runtime.calls import CallRecord


def user_text(messages: Sequence[ChatMessage]) -> str | EngineFailure:
    """The user messages' text, joined by line breaks, without chat template; as Middo does. Failures: BAD_ROLES, and
    EMPTY_PROMPT where there is nothing but white space."""
    try:
        validate_messages(messages)
    except SampleError as error:
        return EngineFailure(error.reason, error.message)
    text = "\n".join(message.content for message in messages if message.role == "user")
    if not text.strip():
        return EngineFailure(EMPTY_PROMPT, "the user messages are empty; there is nothing to embed")
    return text


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


async def embed_texts(
    engine: Engine, texts: Mapping[str, str], record: CallRecord, *, truncate: bool = False
) -> dict[str, EmbeddedText | EngineFailure]:
    """Embeds texts by id, all submitted to the engine together: the tokenizer's default special tokens, no template.

    Texts longer than the context fail with TOO_LONG, or are cut at their end with `truncate`. Other failures: the
    engine's, NOT_FINITE among them. Time and tokens go to `record`.
    """
    limit = engine.model.max_model_len
    encoded = await asyncio.to_thread(_encode_all, engine.tokenizer, texts)
    results: dict[str, EmbeddedText | EngineFailure] = {}
    fitting: dict[str, tuple[list[int], bool]] = {}
    for item, encoding in encoded.items():
        length = len(encoding.ids)
        if length > limit and not truncate:
            results[item] = EngineFailure(
                TOO_LONG, f"{length} tokens, at most {limit} fit the context; shorten the text, or set truncate"
            )
        else:
            fitting[item] = _cut(encoding, limit), length > limit
    sequences = [ids for ids, _ in fitting.values()]
    with record.in_engine(prompt_tokens=sum(map(len, sequences))):
        answers = await engine.embed(sequences) if sequences else []
    for (item, (ids, truncated)), answer in zip(fitting.items(), answers, strict=True):
        if isinstance(answer, EngineFailure):
            results[item] = answer
        elif not np.isfinite(answer).all():
            bad = np.count_nonzero(~np.isfinite(answer))
            results[item] = EngineFailure(
                "NOT_FINITE",
                f"{bad} of {answer.size} numbers of the vector are not finite; the weights or their number format are "
                "at fault, try float32",
            )
        else:
            text_record = TextRecord(text_digest(texts[item]), len(ids), truncated)
            results[item] = EmbeddedText(text_record, np.asarray(answer, np.float32))
    return results


def _encode_all(tokenizer: ChatTokenizer, texts: Mapping[str, str]) -> dict[str, Encoding]:
    return {item: tokenizer.encode(text, add_special_tokens=True) for item, text in texts.items()}


def _cut(encoding: Encoding, limit: int) -> list[int]:
    """The first `limit` tokens; what the tokenizer adds at the end (an EOS) stays at the end."""
    ids = encoding.ids
    if len(ids) <= limit:
        return ids
    tail = 0
    while tail < limit - 1 and encoding.spans[-1 - tail][0] == encoding.spans[-1 - tail][1]:
        tail += 1
    return ids[: limit - tail] + ids[len(ids) - tail :]
