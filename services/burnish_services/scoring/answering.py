"""Answers that the model itself gives to a prompt, sampled with the analysis before the answer (BSDetector §3.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish_services.engine.base import Engine, EngineFailure, GenerateRequest, Generation, Sampling
from burnish_services.engine.chat import SampleError, fitted, prompt_ids
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.runtime.seeds import content_key, derive_seed
from burnish_services.scoring.answers import extract

ANSWER_SAMPLING = Sampling(temperature=1.0, max_tokens=256)
_LEAST_REPLY_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer; `text` is empty where `failure` says why there is none."""

    text: str
    reply: str = ""
    failure: EngineFailure | None = None


async def sample_answers(
    engine: Engine,
    prompts: PromptFiles,
    conversations: Sequence[Sequence[ChatMessage]],
    count: int,
    sampling: Sampling,
    record: CallRecord,
) -> list[tuple[Answer, ...]]:
    """`count` answers to each conversation's prompt (all but its last message); equal prompts share them."""
    keys = [content_key(messages[:-1]) for messages in conversations]
    distinct = dict(zip(keys, conversations, strict=True))
    requests = await asyncio.to_thread(
        lambda: [
            request
            for key, messages in distinct.items()
            for request in _requests(
                engine.tokenizer, engine.model.max_model_len, prompts, messages[:-1], sampling, key, count
            )
        ]
    )
    wanted = [request for request in requests if isinstance(request, GenerateRequest)]
    with record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in wanted)):
        replies = iter(await engine.generate(wanted) if wanted else [])
    answers = []
    for request in requests:
        reply = request if isinstance(request, EngineFailure) else next(replies)
        record.generated_tokens += len(reply.token_ids) if isinstance(reply, Generation) else 0
        answers.append(_answer(reply))
    found = {key: tuple(answers[at * count : (at + 1) * count]) for at, key in enumerate(distinct)}
    return [found[key] for key in keys]


def _answer(reply: Generation | EngineFailure) -> Answer:
    if isinstance(reply, EngineFailure):
        return Answer("", failure=reply)
    text = extract(reply.text)
    if text:
        return Answer(text, reply.text)
    failure = EngineFailure(
        "UNPARSEABLE",
        "the reply has no answer after its analysis; it is left out of the mean. Such replies are usual for small "
        "models; more max_tokens or a larger model may help",
    )
    return Answer("", reply.text, failure)


def _requests(
    tokenizer: ChatTokenizer,
    context: int,
    prompts: PromptFiles,
    prompt: Sequence[ChatMessage],
    sampling: Sampling,
    key: str,
    count: int,
) -> list[GenerateRequest | EngineFailure]:
    """One for each answer, all with the very same tokens, or why there is none."""
    asked = [*prompt[:-1], replace(prompt[-1], content=prompts.render("answer", content=prompt[-1].content))]
    try:
        ids = prompt_ids(tokenizer, asked, context=context)
        fitting = fitted(ids, sampling, context, least=_LEAST_REPLY_TOKENS, what="the prompt")
    except SampleError as error:
        return [EngineFailure(error.reason, error.message)] * count
    seeds = (derive_seed(sampling.seed, key, "answer", number) for number in range(count))
    return [GenerateRequest(ids, replace(fitting, seed=seed)) for seed in seeds]
