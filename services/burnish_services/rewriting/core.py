"""Rewrites a batch on an engine: two calls per attempt, every reply validated, bounded attempts. Knows no
RPC.

The items of a batch go through the calls side by side: all first calls together, then all second calls of
those whose new prompt passed, then the next attempt of those that did not pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from burnish_services.engine.base import Engine, EngineFailure, GenerateRequest, Generation, Sampling
from burnish_services.engine.chat import TOO_LONG, SampleError, prompt_ids
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
        entries = [item if isinstance(item, EngineFailure) else self._work(item) for item in items]
        works = [entry for entry in entries if isinstance(entry, _Work)]
        for number in range(self.max_attempts):
            pending = [work for work in works if work.open]
            for work in pending:
                work.outcome.attempts.append(Attempt())
            replies = await self._ask(pending, "prompt", number, self._first_call)
            passed = await asyncio.to_thread(self._take, replies, self._take_prompt)
            replies = await self._ask(passed, "answer", number, self._second_call)
            await asyncio.to_thread(self._take, replies, self._take_answer)
        for work in works:
            if work.open:
                work.outcome.failure = self._rejected(work.outcome.attempts)
        return [entry.outcome if isinstance(entry, _Work) else Outcome(failure=entry) for entry in entries]

    def _work(self, item: Item) -> _Work:
        return _Work(item, self.prompts.original(self.strategy, item.material))

    async def _ask(
        self, works: Sequence[_Work], call: str, number: int, question: Callable[[_Work], _Question]
    ) -> list[tuple[_Work, Generation]]:
        """Asks the engine about all `works` at once; those without a reply have got their failure."""

        def requests() -> list[GenerateRequest | EngineFailure]:
            return [self._request(work, call, number, question(work)) for work in works]

        asked = list(zip(works, await asyncio.to_thread(requests), strict=True))
        sent = [request for _, request in asked if isinstance(request, GenerateRequest)]
        with self.record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in sent)):
            answers = iter(await self.engine.generate(sent) if sent else [])
        replies = []
        for work, request in asked:
            answer = next(answers) if isinstance(request, GenerateRequest) else request
            if isinstance(answer, EngineFailure):
                self._fail(work, answer)
            else:
                self.record.generated_tokens += len(answer.token_ids)
                replies.append((work, answer))
        return replies

    def _request(self, work: _Work, call: str, number: int, question: _Question) -> GenerateRequest | EngineFailure:
        try:
            ids = prompt_ids(self.engine.tokenizer, question.messages)
        except SampleError as error:
            return EngineFailure(error.reason, error.message)
        ids = ids + self.engine.tokenizer.encode(question.lead_in).ids
        context = self.engine.model.max_model_len
        room = context - len(ids)
        if room < _LEAST_REPLY_TOKENS:
            return EngineFailure(
                TOO_LONG,
                f"what is to be rewritten takes {len(ids)} of {context} tokens and leaves no room for a reply; shorten "
                "the sample or use a model with a longer context",
            )
        seed = derive_seed(self.sampling.seed, work.item.key, str(self.strategy), number, call)
        return GenerateRequest(ids, replace(self.sampling, max_tokens=min(self.sampling.max_tokens, room), seed=seed))

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

    def _take(
        self, replies: Sequence[tuple[_Work, Generation]], take: Callable[[_Work, Generation], None]
    ) -> list[_Work]:
        """Validates the replies and returns what passed; blocking, as comparing texts takes its time."""
        passed = []
        for work, reply in replies:
            try:
                take(work, reply)
                passed.append(work)
            except Rejected as rejected:
                work.attempt.rejection, work.attempt.detail = rejected.rejection, rejected.detail
                work.prompt = ""
        return passed

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
