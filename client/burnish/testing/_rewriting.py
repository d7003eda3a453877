"""The fake rewriting service: puts the strategy before the old prompt, and responds in a few words. Private."""

from __future__ import annotations

import numpy as np
from google.rpc import code_pb2

from burnish.api.common.v1 import common_pb2
from burnish.api.rewriting.v1 import rewriting_pb2, rewriting_pb2_grpc
from burnish.testing._state import PROMPT_DIGEST, Context, FakeState, draw, failed

# ruff: noqa: N802 - gRPC names the methods


class FakeRewriting(rewriting_pb2_grpc.RewritingServiceServicer):
    """Puts the strategy's word before the old prompt; rejects what asks for it by containing `reject`."""

    def __init__(self, state: FakeState) -> None:
        self._state = state

    def GetInfo(self, request: rewriting_pb2.GetInfoRequest, context: Context) -> rewriting_pb2.GetInfoResponse:
        versions = {word: f"{word}/{PROMPT_DIGEST}" for word in ("simplify", "improve", "diversify")}
        return rewriting_pb2.GetInfoResponse(info=self._state.info(), prompt_versions=versions)

    def LoadModel(self, request: rewriting_pb2.LoadModelRequest, context: Context) -> rewriting_pb2.LoadModelResponse:
        return rewriting_pb2.LoadModelResponse(model=self._state.version(request.model))

    def RewriteSamples(
        self, request: rewriting_pb2.RewriteSamplesRequest, context: Context
    ) -> rewriting_pb2.RewriteSamplesResponse:
        version = self._state.serve(request.model, [item.sample.id for item in request.items], context)
        word = rewriting_pb2.Strategy.Name(request.strategy).removeprefix("STRATEGY_").lower()
        reply = rewriting_pb2.RewriteSamplesResponse(model=version, prompt_version=f"{word}/{PROMPT_DIGEST}")
        for item in request.items:
            prompt = "\n".join(m.content for m in item.sample.messages if m.role == common_pb2.ROLE_USER)
            rewrite = reply.rewrites.add(sample_id=item.sample.id)
            attempt = rewrite.attempts.add(prompt_reply=f"{word}: {prompt}")
            if "reject" in prompt:
                rewrite.status.CopyFrom(
                    common_pb2.ItemStatus(code=code_pb2.ABORTED, reason="REJECTED", message="asked")
                )
                attempt.rejection, attempt.detail = rewriting_pb2.REJECTION_COPY, "asked"
                continue
            attempt.response_reply = f"an answer to {word}: {prompt}"
            rewrite.sample.id = item.sample.id
            rewrite.sample.messages.add(role=common_pb2.ROLE_USER, content=attempt.prompt_reply)
            rewrite.sample.messages.add(role=common_pb2.ROLE_ASSISTANT, content=attempt.response_reply)
        return reply

    def GenerateResponses(
        self, request: rewriting_pb2.GenerateResponsesRequest, context: Context
    ) -> rewriting_pb2.GenerateResponsesResponse:
        version = self._state.serve(request.model, [prompt.id for prompt in request.prompts], context)
        reply = rewriting_pb2.GenerateResponsesResponse(model=version)
        for prompt in request.prompts:
            result = reply.results.add(prompt_id=prompt.id)
            asked = prompt.messages[-1].content if prompt.messages else ""
            if not asked:
                result.status.CopyFrom(failed("EMPTY_PROMPT"))
                continue
            for number in range(request.num_responses or 1):
                drawn = draw(version.digest, asked, str(number))
                words = ["yes", *(str(drawn.integers(100)) for _ in range(drawn.integers(1, 5)))]
                logprobs = -drawn.gamma(2.0, 0.7, len(words)).astype("<f4")
                response = result.responses.add(
                    text=" ".join(words),
                    # As a reply that is too long would be.
                    finish_reason=rewriting_pb2.FinishReason.FINISH_REASON_LENGTH
                    if "endless" in asked
                    else rewriting_pb2.FinishReason.FINISH_REASON_STOP,
                    num_tokens=len(words),
                    mean_logprob=float(logprobs.mean()),
                )
                if request.check and "endless" in asked:
                    response.rejection = rewriting_pb2.REJECTION_TRUNCATED
                    response.rejection_detail = "the answer was cut off at max_tokens"
                if request.return_tokens:
                    response.token_ids = np.arange(len(words), dtype="<i4").tobytes()
                    response.logprobs = logprobs.tobytes()
        return reply
