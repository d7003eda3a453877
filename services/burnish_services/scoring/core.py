"""Scores a batch on an engine: conversations in, losses or named failures out. Knows no RPC.

All sequences of a call are submitted to the engine together, so that it can batch them as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from burnish_services.engine.base import Engine, EngineFailure, ScoreRequest, TokenScores
from burnish_services.engine.chat import SampleError, Span, TokenizedSample, span_positions, tokenize_sample
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer
from burnish_services.runtime.calls import CallRecord
from burnish_services.scoring.losses import SampleLoss, sample_loss, unconditional_loss


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for beside the losses."""

    unconditional: bool = False  # the responses without their prompts too
    distribution: bool = False  # entropies and margins
    mean_hidden: Span | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    sample: TokenizedSample
    requests: list[ScoreRequest]  # the conversation, then each turn alone where that is wanted


async def score_conversations(
    engine: Engine, conversations: Sequence[Sequence[ChatMessage]], wanted: Wanted, record: CallRecord
) -> list[SampleLoss | EngineFailure]:
    """One loss, or the reason why there is none, per conversation. Reasons: those of `chat.SampleError` and the
    engine's. Time and tokens go to `record`."""
    prepared = await asyncio.to_thread(_prepare_all, engine, conversations, wanted)
    requests = [request for one in prepared if isinstance(one, _Prepared) for request in one.requests]
    with record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in requests)):
        answers = iter(await engine.score(requests) if requests else [])
    return [
        one if isinstance(one, EngineFailure) else _loss(one, [next(answers) for _ in one.requests]) for one in prepared
    ]


def _loss(prepared: _Prepared, answers: Sequence[TokenScores | EngineFailure]) -> SampleLoss | EngineFailure:
    scores = []
    for answer in answers:
        if isinstance(answer, EngineFailure):
            return answer
        scores.append(answer)
    whole, alone = scores[0], scores[1:]
    sample, first = prepared.sample, prepared.requests[0].first_scored
    compared = unconditional_loss(sample, whole, first, [one.logprobs for one in alone]) if alone else None
    return sample_loss(sample, whole, first, compared)


def _prepare_all(
    engine: Engine, conversations: Sequence[Sequence[ChatMessage]], wanted: Wanted
) -> list[_Prepared | EngineFailure]:
    return [_prepare(engine.tokenizer, messages, wanted, engine.model.max_model_len) for messages in conversations]


def _prepare(
    tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], wanted: Wanted, max_tokens: int
) -> _Prepared | EngineFailure:
    try:
        sample = tokenize_sample(tokenizer, messages, max_tokens=max_tokens)
    except SampleError as error:
        return EngineFailure(error.reason, error.message)
    hidden = () if wanted.mean_hidden is None else span_positions(sample, wanted.mean_hidden)
    requests = [ScoreRequest(sample.ids, sample.turns[0].start, wanted.distribution, hidden)]
    if wanted.unconditional:
        begin = tokenizer.encode("", add_special_tokens=True).ids[:1]  # BOS, where texts begin with one
        requests += [ScoreRequest([*begin, *sample.ids[turn.start : turn.end]]) for turn in sample.turns]
    return _Prepared(sample, requests)
