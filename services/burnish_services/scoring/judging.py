"""Lets an engine judge a batch: every question of every sample at once, each reply read on its own. Knows no RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish_services.engine.base import Engine, EngineFailure, GenerateRequest, Generation, Sampling
from burnish_services.engine.chat import SampleError, fitted, prompt_ids
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.seeds import content_key, derive_seed
from burnish_services.scoring.choosing import Choice
from burnish_services.scoring.material import no_response, refusal
from burnish_services.scoring.rating import Dimension, JudgePrompts, Target, parse_rating

# As published.
JUDGE_SAMPLING = Sampling(temperature=0.1, top_p=0.7, top_k=50, max_tokens=1024, repetition_penalty=1.0)
# A number and a line end must fit behind the question.
_LEAST_REPLY_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Rated:
    """One rating. `value` is None where `failure` says why; `reply` is what the judge said, verbatim, or `digits` what
    it would have."""

    dimension: Dimension
    target: Target
    value: float | None
    reply: str = ""
    failure: EngineFailure | None = None
    digits: Choice | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    dimension: Dimension
    target: Target
    request: GenerateRequest | EngineFailure


async def judge_conversations(
    engine: Engine,
    prompts: JudgePrompts,
    conversations: Sequence[Sequence[ChatMessage]],
    dimensions: Sequence[Dimension],
    targets: Sequence[Target],
    sampling: Sampling,
    record: CallRecord,
) -> list[list[Rated] | EngineFailure]:
    """Per conversation its ratings, dimensions outermost, or why nothing could be asked at all (BAD_ROLES,
    EMPTY_PROMPT). A single rating fails with UNPARSEABLE, TOO_LONG or an engine's reason."""
    asking = _Asking(engine.tokenizer, engine.model.max_model_len, prompts, dimensions, targets, sampling)
    asked = await asyncio.to_thread(lambda: [asking.questions(messages) for messages in conversations])
    requests = [
        question.request
        for questions in asked
        if not isinstance(questions, EngineFailure)
        for question in questions
        if not isinstance(question.request, EngineFailure)
    ]
    with record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in requests)):
        replies = iter(await engine.generate(requests) if requests else [])
    results: list[list[Rated] | EngineFailure] = []
    for questions in asked:
        if isinstance(questions, EngineFailure):
            results.append(questions)
            continue
        answers = [
            question.request if isinstance(question.request, EngineFailure) else next(replies) for question in questions
        ]
        record.generated_tokens += sum(len(a.token_ids) for a in answers if isinstance(a, Generation))
        results.append([_rated(*pair) for pair in zip(questions, answers, strict=True)])
    return results


def _rated(question: _Question, answer: Generation | EngineFailure) -> Rated:
    if isinstance(answer, EngineFailure):
        return Rated(question.dimension, question.target, None, failure=answer)
    value = parse_rating(answer.text)
    failure = None
    if value is None:
        failure = EngineFailure(
            "UNPARSEABLE",
            "the judge's reply has no number in it; the rating is left out. Such replies are usual for small models: "
            "another seed or a larger model may help",
        )
    return Rated(question.dimension, question.target, value, answer.text, failure)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Turns conversations into requests; blocking, so meant for a thread."""

    tokenizer: ChatTokenizer
    context: int
    prompts: JudgePrompts
    dimensions: Sequence[Dimension]
    targets: Sequence[Target]
    sampling: Sampling

    def questions(self, messages: Sequence[ChatMessage]) -> list[_Question] | EngineFailure:
        failure = refusal(messages)
        if failure is not None:
            return failure
        return [
            _Question(dimension, target, self._request(messages, dimension, target))
            for dimension in self.dimensions
            for target in self.targets
        ]

    def _request(
        self, messages: Sequence[ChatMessage], dimension: Dimension, target: Target
    ) -> GenerateRequest | EngineFailure:
        failure = no_response(messages) if target is Target.RESPONSE else None
        if failure is not None:
            return failure
        turns = self.prompts.conversation(messages, dimension, target)
        try:
            ids = prompt_ids(self.tokenizer, turns, context=self.context)
            what = f"the question about the {target}"
            sampling = fitted(ids, self.sampling, self.context, least=_LEAST_REPLY_TOKENS, what=what)
        except SampleError as error:
            return EngineFailure(error.reason, error.message)
        seed = derive_seed(sampling.seed, content_key(messages), str(dimension), str(target))
        return GenerateRequest(ids, replace(sampling, seed=seed))
