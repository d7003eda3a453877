"""Questions with a few answers to choose from, answered by one token's probabilities instead of a generated reply.

The assistant's turn is begun with a fixed lead-in, after which an answer's letter or digit is due; the model's
probabilities of these tokens are its answer. One pass, no chance, and questions that begin alike share a prefix.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from burnish_services.engine.base import Engine, EngineFailure, RankRequest
from burnish_services.engine.chat import TOO_LONG, SampleError, prompt_ids
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer
from burnish_services.runtime.calls import CallRecord

NO_TOKEN = "NO_TOKEN"  # noqa: S105 - of a vocabulary


@dataclass(frozen=True, slots=True)
class Question:
    """`messages` end in the user's; `options` are letters or digits, one character each."""

    messages: Sequence[ChatMessage]
    lead_in: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Probabilities of the options, which add up to 1, and the mass they had together before that, both in [0, 1]."""

    probabilities: tuple[float, ...]
    covered_mass: float


async def choose(
    engine: Engine, questions: Iterable[Question | EngineFailure], record: CallRecord
) -> list[Choice | EngineFailure]:
    """One choice per question, or why there is none: the question's own failure, those of `chat.SampleError`, the
    engine's, or NO_TOKEN where the tokenizer has no token for an option. `questions` are gone through once, in a
    thread, so that writing them may take its time."""
    prepared = await asyncio.to_thread(_prepare, engine.tokenizer, engine.model.max_model_len, questions)
    requests = [one.request for one in prepared if isinstance(one, _Prepared)]
    with record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in requests)):
        answers = iter(await engine.rank(requests) if requests else [])
    results: list[Choice | EngineFailure] = []
    for one in prepared:
        if isinstance(one, EngineFailure):
            results.append(one)
            continue
        answer = next(answers)
        results.append(
            answer if isinstance(answer, EngineFailure) else choice_of([float(x) for x in answer], one.sizes)
        )
    return results


def choice_of(logprobs: Sequence[float], sizes: Sequence[int]) -> Choice:
    """The choice that tokens' log-probabilities make, where the first `sizes[0]` tokens write the first option, and so
    on. Options without any mass at all, as an underflow may leave them, are equally likely."""
    masses, at = [], 0
    for size in sizes:
        masses.append(math.fsum(math.exp(x) for x in logprobs[at : at + size]))
        at += size
    covered = math.fsum(masses)
    if covered <= 0.0:
        return Choice(tuple(1 / len(sizes) for _ in sizes), 0.0)
    return Choice(tuple(mass / covered for mass in masses), min(covered, 1.0))


@dataclass(frozen=True, slots=True)
class _Prepared:
    request: RankRequest
    sizes: tuple[int, ...]


def _prepare(
    tokenizer: ChatTokenizer, context: int, questions: Iterable[Question | EngineFailure]
) -> list[_Prepared | EngineFailure]:
    tokens: dict[tuple[str, str], list[int]] = {}
    prepared: list[_Prepared | EngineFailure] = []
    for question in questions:
        if isinstance(question, EngineFailure):
            prepared.append(question)
            continue
        for option in question.options:
            if (question.lead_in, option) not in tokens:
                tokens[question.lead_in, option] = _option_tokens(tokenizer, question.lead_in, option)
        prepared.append(_request(tokenizer, context, question, tokens))
    return prepared


def _request(
    tokenizer: ChatTokenizer, context: int, question: Question, tokens: Mapping[tuple[str, str], Sequence[int]]
) -> _Prepared | EngineFailure:
    of_options = [tokens[question.lead_in, option] for option in question.options]
    missing = [option for option, found in zip(question.options, of_options, strict=True) if not found]
    if missing:
        return EngineFailure(
            NO_TOKEN,
            f"the model's tokenizer has no single token for {missing[0]!r}; use the generated mode or another model",
        )
    try:
        ids = [*prompt_ids(tokenizer, question.messages, context=context), *tokenizer.encode(question.lead_in).ids]
    except SampleError as error:
        return EngineFailure(error.reason, error.message)
    if len(ids) > context:
        return EngineFailure(
            TOO_LONG,
            f"the question takes {len(ids)} of {context} tokens; shorten the sample or take a longer context",
        )
    candidates = [token for found in of_options for token in found]
    return _Prepared(RankRequest(ids, candidates), tuple(map(len, of_options)))


def _option_tokens(tokenizer: ChatTokenizer, lead_in: str, option: str) -> list[int]:
    """The tokens that write the option alone, with or without a blank before it, in either case: after the lead-in,
    where a tokenizer that puts a blank before all texts writes it otherwise, and by itself."""
    found: list[int] = []
    before = tokenizer.encode(lead_in).ids
    for text in dict.fromkeys((option, option.lower(), f" {option}", f" {option.lower()}")):
        after = tokenizer.encode(lead_in + text).ids
        goes_on = [after[-1:]] if after[:-1] == before else []
        for ids in (*goes_on, tokenizer.encode(text).ids):
            if len(ids) == 1 and ids[0] not in found and tokenizer.decode(ids).strip() == text.strip():
                found.append(ids[0])
    return found
