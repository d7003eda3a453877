"""Scores a batch on an engine: conversations in, losses or named failures out. Knows no RPC.

All sequences of a call are submitted to the engine together, so that it can batch them as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from burnish_services.engine.base import Engine, EngineFailure, ScoreRequest
from burnish_services.engine.chat import SampleError, TokenizedSample, tokenize_sample
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer
from burnish_services.runtime.calls import CallRecord
from burnish_services.scoring.losses import SampleLoss, sample_loss


async def score_conversations(
    engine: Engine, conversations: Sequence[Sequence[ChatMessage]], record: CallRecord
) -> list[SampleLoss | EngineFailure]:
    """One loss, or the reason why there is none, per conversation. Reasons: those of `chat.SampleError`, the
    engine's, and NOT_FINITE. Time and tokens go to `record`."""
    tokenized = await asyncio.to_thread(_tokenize_all, engine.tokenizer, conversations, engine.model.max_model_len)
    wanted = [sample for sample in tokenized if isinstance(sample, TokenizedSample)]
    requests = [ScoreRequest(sample.ids, sample.turns[0].start) for sample in wanted]
    with record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in requests)):
        answers = iter(await engine.score(requests) if requests else [])
    results: list[SampleLoss | EngineFailure] = []
    for sample in tokenized:
        if isinstance(sample, EngineFailure):
            results.append(sample)
            continue
        logprobs = next(answers)
        if isinstance(logprobs, EngineFailure):
            results.append(logprobs)
        elif not np.isfinite(logprobs).all():
            results.append(_not_finite(int(np.count_nonzero(~np.isfinite(logprobs))), len(logprobs)))
        else:
            results.append(sample_loss(sample, logprobs, sample.turns[0].start))
    return results


def _tokenize_all(
    tokenizer: ChatTokenizer, conversations: Sequence[Sequence[ChatMessage]], max_tokens: int
) -> list[TokenizedSample | EngineFailure]:
    results: list[TokenizedSample | EngineFailure] = []
    for messages in conversations:
        try:
            results.append(tokenize_sample(tokenizer, messages, max_tokens=max_tokens))
        except SampleError as error:
            results.append(EngineFailure(error.reason, error.message))
    return results


def _not_finite(bad: int, total: int) -> EngineFailure:
    return EngineFailure(
        "NOT_FINITE",
        f"{bad} of {total} log-probabilities are NaN or infinite; the sample is left without a score. If many samples "
        "are hit, the weights are damaged or the number format is too narrow for them",
    )
