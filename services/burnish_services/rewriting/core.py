"""Rewrites a batch on an engine: two calls per attempt, every reply validated, bounded attempts. Knows no
RPC.

Every item goes through its calls at its own pace, so that an engine that batches as requests come always has
all that can be asked at the time: no item waits for the longest reply of the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from burnish_services.engine.base import Engine, EngineFailure, GenerateRequest, Generation, Sampling
from burnish_services.engine.chat import TOO_LONG, SampleError, fitted, prompt_ids
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.rewriting.strategies import Material, RewritePrompts, Strategy, material_of
from burnish_services.rewriting.validation import (
    Original,
    Rejected,
    Rejection,
    Rules,
    check_prompt,
    check_response,
    lead_in_after,
)
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.seeds import content_key, derive_seed

# As published: call A and call B at temperature 1.
REWRITE_SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=1024)
# Less room than this is no room for a reply.
_LEAST_REPLY_TOKENS = 32


@dataclass(slots=True)
class Attempt:
    """One attempt; `rejection` None: accepted."""

    rejection: Rejection | None = None
    detail: str = ""
    prompt_reply: str = ""
    response_reply: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One item to rewrite. `key` names its content, for seeds."""

    material: Material
    key: str


@dataclass(slots=True)
class Outcome:
    """What became of one item: `messages` of the new sample, or the `failure` that says why there is none."""

    messages: list[ChatMessage] | None = None
    failure: EngineFailure | None = None
    attempts: list[Attempt] = field(default_factory=list)


@dataclass(slots=True)
class _Work:
    """An item while it is being worked."""

    item: Item
    original: Original
    outcome: Outcome = field(default_factory=Outcome)
    prompt: str = ""
    lead_in: str = ""  # what the assistant's turn of the next first call begins with
    first: GenerateRequest | EngineFailure | None = None  # what is asked first, until it is

    @property
    def tokens(self) -> int:
        """Of what is asked first."""
        return len(self.first.token_ids) if isinstance(self.first, GenerateRequest) else 0

    @property
    def attempt(self) -> Attempt:
        return self.outcome.attempts[-1]

    @property
    def open(self) -> bool:
        return self.outcome.messages is None and self.outcome.failure is None


@dataclass(frozen=True, slots=True)
class _Question:
    """What the engine is asked: turns that end with the user's, and how the assistant's turn begins."""

    messages: list[ChatMessage]
    lead_in: str = ""


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Rewrites the items of one call, all under one strategy."""

    engine: Engine
    prompts: RewritePrompts
    strategy: Strategy
    rules: Rules
    sampling: Sampling
    max_attempts: int
    record: CallRecord

    async def rewrite(self, items: Sequence[Item | EngineFailure]) -> list[Outcome]:
        """One outcome per item, in order. Failures: those that stand in an item's place already, REJECTED
        after the last attempt, TOO_LONG and TEMPLATE_FAILED where nothing could be asked, and the engine's
        own."""
        works = await asyncio.to_thread(lambda: [self._begin(item) for item in items])
        # A later question has about as many tokens as the first, and replaces it.
        with self.record.admitted(sum(work.tokens for work in works if isinstance(work, _Work))):
            tasks = [asyncio.ensure_future(self._outcome(work)) for work in works]
            try:
                return await asyncio.gather(*tasks)
            except BaseException:  # nothing of this call may go on in the engine, whose weights may change then
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    def _begin(self, item: Item | EngineFailure) -> _Work | EngineFailure:
        if isinstance(item, EngineFailure):
            return item
        work = _Work(item, self.prompts.original(self.strategy, item.material))
        work.first = self._request(work, "prompt", 0, self._first_call(work))
        return work

    async def _outcome(self, work: _Work | EngineFailure) -> Outcome:
        if isinstance(work, EngineFailure):
            return Outcome(failure=work)
        for number in range(self.max_attempts):
            work.outcome.attempts.append(Attempt())
            if await self._passes(work, "prompt", number, self._first_call, self._take_prompt):
                await self._passes(work, "answer", number, self._second_call, self._take_answer)
            if not work.open:
                return work.outcome
        work.outcome.failure = self._rejected(work.outcome.attempts)
        return work.outcome

    async def _passes(
        self,
        work: _Work,
        call: str,
        number: int,
        question: Callable[[_Work], _Question],
        take: Callable[[_Work, Generation], None],
    ) -> bool:
        """Asks the engine and validates its reply. Where there is no reply the item has got its failure; where it did
        not pass, its attempt says why."""
        request, work.first = work.first, None
        if request is None:
            request = await asyncio.to_thread(lambda: self._request(work, call, number, question(work)))
        if isinstance(request, EngineFailure):
            self._fail(work, request)
            return False
        with self.record.in_engine(prompt_tokens=len(request.token_ids)):
            (reply,) = await self.engine.generate([request])
        if isinstance(reply, EngineFailure):
            self._fail(work, reply)
            return False
        self.record.generated_tokens += len(reply.token_ids)
        try:
            await asyncio.to_thread(take, work, reply)  # comparing texts takes its time
        except Rejected as rejected:
            work.attempt.rejection, work.attempt.detail = rejected.rejection, rejected.detail
            work.prompt = ""
            return False
        return True

    def _request(self, work: _Work, call: str, number: int, question: _Question) -> GenerateRequest | EngineFailure:
        context = self.engine.model.max_model_len
        try:
            ids = prompt_ids(self.engine.tokenizer, question.messages, context=context)
            ids = ids + self.engine.tokenizer.encode(question.lead_in).ids
            sampling = fitted(ids, self.sampling, context, least=_LEAST_REPLY_TOKENS, what="what is to be rewritten")
        except SampleError as error:
            return EngineFailure(error.reason, error.message)
        seed = derive_seed(sampling.seed, work.item.key, str(self.strategy), number, call)
        return GenerateRequest(ids, replace(sampling, seed=seed))

    def _fail(self, work: _Work, failure: EngineFailure) -> None:
        if work.prompt and failure.reason == TOO_LONG:
            # The new prompt is what is too long; another attempt may bring a shorter one.
            work.attempt.rejection, work.attempt.detail = Rejection.TOO_LONG, failure.message
            work.prompt = ""
            return
        work.outcome.failure = failure
        if work.prompt:
            work.attempt.detail = f"no answer: {failure.message}"
        else:
            work.outcome.attempts.pop()

    def _first_call(self, work: _Work) -> _Question:
        return _Question(self.prompts.new_prompt(self.strategy, work.item.material), work.lead_in)

    def _second_call(self, work: _Work) -> _Question:
        return _Question(self.prompts.answer(self.strategy, work.item.material, work.prompt))

    def _take_prompt(self, work: _Work, reply: Generation) -> None:
        text = work.lead_in + reply.text
        work.attempt.prompt_reply = text
        work.lead_in = lead_in_after(text, reply.finish_reason)
        work.prompt = check_prompt(text, reply.finish_reason, work.original, self.rules)

    def _take_answer(self, work: _Work, reply: Generation) -> None:
        work.attempt.response_reply = reply.text
        response = check_response(reply.text, reply.finish_reason, work.prompt, work.original, self.rules)
        work.outcome.messages = self.prompts.rewritten(work.item.material, work.prompt, response)

    def _rejected(self, attempts: Sequence[Attempt]) -> EngineFailure:
        reasons = ", ".join(str(attempt.rejection) for attempt in attempts)
        return EngineFailure(
            "REJECTED",
            f"no attempt of {len(attempts)} passed validation ({reasons}); keep the original. More attempts, another "
            "seed or a larger model may help",
            # With a seed the same request brings the same replies.
            retryable=self.sampling.seed is None,
        )


def item_of(messages: Sequence[ChatMessage], neighbors: Sequence[Sequence[ChatMessage]]) -> Item | EngineFailure:
    """The item that a conversation, and the neighbours that are shown with it, make; or why they make
    none."""
    try:
        material = material_of(messages, neighbors)
    except SampleError as error:
        return EngineFailure(error.reason, error.message)
    return Item(material, "/".join(content_key(conversation) for conversation in (messages, *neighbors)))
