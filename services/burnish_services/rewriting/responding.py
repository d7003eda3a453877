"""Responds to prompts as they stand, and says what is wrong with a reply. Knows no RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from burnish_services.engine.base import Engine, EngineFailure, GenerateRequest, Generation, Sampling
from burnish_services.engine.chat import SampleError, fitted, prompt_ids
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.rewriting.validation import Original, Rejected, Rules, check_response
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.seeds import content_key, derive_seed

# As CLEAR proposes its candidates.
RESPONSE_SAMPLING = Sampling(temperature=0.0, max_tokens=512)


@dataclass(frozen=True, slots=True)
class Responder:
    """Responds `count` times to each prompt of one call."""

    engine: Engine
    sampling: Sampling
    count: int
    record: CallRecord

    async def respond(self, prompts: Sequence[Sequence[ChatMessage]]) -> list[list[Generation] | EngineFailure]:
        """The responses to each prompt, with log-probabilities, or the first reason why one of them is missing. All are
        asked for at once, so that an engine reads a prompt once for all of its responses."""
        asked = await asyncio.to_thread(lambda: [self._requests(messages) for messages in prompts])
        wanted = [request for one in asked if not isinstance(one, EngineFailure) for request in one]
        with self.record.in_engine(prompt_tokens=sum(len(request.token_ids) for request in wanted)):
            replies = iter(await self.engine.generate(wanted) if wanted else [])
        return [one if isinstance(one, EngineFailure) else self._of([next(replies) for _ in one]) for one in asked]

    def _of(self, replies: Sequence[Generation | EngineFailure]) -> list[Generation] | EngineFailure:
        made = [reply for reply in replies if isinstance(reply, Generation)]
        self.record.generated_tokens += sum(len(reply.token_ids) for reply in made)
        failures = [reply for reply in replies if isinstance(reply, EngineFailure)]
        return failures[0] if failures else made

    def _requests(self, messages: Sequence[ChatMessage]) -> list[GenerateRequest] | EngineFailure:
        context = self.engine.model.max_model_len
        try:
            ids = prompt_ids(self.engine.tokenizer, messages, context=context)
            sampling = fitted(ids, self.sampling, context, least=1, what="the prompt")
        except SampleError as error:
            return EngineFailure(error.reason, error.message)
        key = content_key(messages)
        return [
            GenerateRequest(ids, replace(sampling, seed=derive_seed(sampling.seed, key, "respond", n)), logprobs=True)
            for n in range(self.count)
        ]


def rejection_of(prompt: Sequence[ChatMessage], generation: Generation) -> Rejected | None:
    """What is wrong with a response, by the rules that answers in rewrites must satisfy; None where nothing is."""
    asked = "\n\n".join(turn.content for turn in prompt if turn.role == "user")
    try:
        check_response(generation.text, generation.finish_reason, asked, Original(asked), Rules())
    except Rejected as rejected:
        return rejected
    return None
