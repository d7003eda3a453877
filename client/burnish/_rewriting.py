"""`client.rewriting`: new and better samples from old ones, validated by the service before they leave it; and plain
responses to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from burnish import _convert, _convert_replies, _convert_responses
from burnish._batches import BatchCall, Reply, sample_bytes, send_batches
from burnish._convert import Model
from burnish._loop import BackgroundLoop
from burnish._response_types import Prompt, PromptResponses, ResponseBatch
from burnish._service import AsyncModelService, Service
from burnish._types import (
    ModelVersion,
    Rewrite,
    RewriteBatch,
    RewriteItem,
    RewritingInfo,
    Sample,
    Sampling,
    Strategy,
    ValidationRules,
)
from burnish.api.rewriting.v1 import rewriting_pb2 as pb
from burnish.api.rewriting.v1 import rewriting_pb2_grpc

if TYPE_CHECKING:
    from burnish.api.rewriting.v1.rewriting_pb2_grpc import RewritingServiceAsyncStub

# ruff: noqa: ASYNC109 - every `timeout` is a gRPC deadline: seconds for each request that a call makes


class AsyncRewriting(AsyncModelService):
    """The rewriting service. `timeout` is in seconds for each request to the service; a long batch makes several."""

    @cached_property
    def _stub(self) -> RewritingServiceAsyncStub:
        return rewriting_pb2_grpc.RewritingServiceStub(self._link.channel())

    async def info(self, *, timeout: float | None = None) -> RewritingInfo:
        """What the server runs, its limits and each strategy's prompt version; quick, never loads a model."""
        reply = await self._link.call("GetInfo", self._stub.GetInfo, pb.GetInfoRequest(), timeout=timeout)
        info = _convert.info_from_proto(reply.info)
        self._limits = info.limits
        # A strategy that a newer server has and this client can't ask for is left out.
        versions = {strategy: reply.prompt_versions.get(strategy.value, "") for strategy in Strategy}
        return RewritingInfo(info.version, info.engine, info.model, info.limits, info.notes, prompt_versions=versions)

    async def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:
        """Loads weights ahead of use, checks them and says which version is held; quick where they are held."""
        request = pb.LoadModelRequest(model=_convert.model_to_proto(model))
        reply = await self._link.call("LoadModel", self._stub.LoadModel, request, timeout=timeout)
        with self._link.reading("LoadModel"):
            return _convert.required_version(reply)

    async def rewrite(
        self,
        items: Sequence[RewriteItem],
        strategy: Strategy,
        *,
        model: Model | None = None,
        sampling: Sampling | None = None,
        max_attempts: int | None = None,
        rules: ValidationRules | None = None,
        timeout: float | None = None,
    ) -> RewriteBatch:
        """Rewrites each item's sample under `strategy` with `model`: a new prompt, then a new answer to it.

        Any number of items; sample ids unique. One Rewrite per item, in order; a rejected one has no sample and says
        why in its attempts. `max_attempts`: 1 to 10, None for the service's default. Raises UsageError and
        ServiceError.
        """
        number = _convert.STRATEGIES.number(strategy)
        settings, checks = _convert.sampling_to_proto(sampling), _convert.rules_to_proto(rules)

        async def send(part: Sequence[RewriteItem]) -> Reply[Rewrite]:
            with _convert.refused_as_usage("rewrite"):
                request = pb.RewriteSamplesRequest(
                    model=_convert.model_to_proto(model),
                    strategy=number,
                    items=[_convert.rewrite_item_to_proto(item) for item in part],
                    sampling=settings,
                    max_attempts=max_attempts or 0,
                    rules=checks,
                )
            reply = await self._link.call("RewriteSamples", self._stub.RewriteSamples, request, timeout=timeout)
            with self._link.reading("RewriteSamples"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_replies.rewrite_from_proto(rewrite) for rewrite in reply.rewrites),
                    _convert.timing_from_proto(reply.timing),
                    reply.prompt_version,
                )

        call: BatchCall[RewriteItem, Rewrite] = BatchCall(
            name="rewrite",
            item_id=lambda item: item.sample.id,
            size=_item_bytes,
            send=send,
            result_id=lambda rewrite: rewrite.sample_id,
            refuse=Rewrite,
            version=lambda: self._version_for(model),
            prompts=lambda: self._prompts_of(Strategy(strategy)),
        )
        reply = await send_batches(self._link, call, items, self._allowed)
        return RewriteBatch(reply.model, reply.results, reply.prompts, reply.timing)

    async def _prompts_of(self, strategy: Strategy) -> str:
        return (await self.info()).prompt_versions[strategy]

    async def respond(
        self,
        prompts: Sequence[Prompt],
        *,
        model: Model | None = None,
        num_responses: int = 1,
        sampling: Sampling | None = None,
        return_tokens: bool = False,
        check: bool = False,
        timeout: float | None = None,
    ) -> ResponseBatch:
        """Lets `model` respond to each prompt, `num_responses` times: 1 to 32; more than 1 needs a temperature above 0.

        Any number of prompts; ids unique. One PromptResponses per prompt, in order. Unlike rewrites, nothing is held
        back; with `check`, each response says what is wrong with it. `sampling`: by default temperature 0 and at most
        512 tokens. With `return_tokens`, every token and its log-probability too. Raises UsageError and ServiceError.
        """
        settings = _convert.sampling_to_proto(sampling)

        async def send(part: Sequence[Prompt]) -> Reply[PromptResponses]:
            with _convert.refused_as_usage("respond"):
                request = pb.GenerateResponsesRequest(
                    model=_convert.model_to_proto(model),
                    prompts=[_convert_responses.prompt_to_proto(prompt) for prompt in part],
                    num_responses=num_responses,
                    sampling=settings,
                    return_tokens=return_tokens,
                    check=check,
                )
            reply = await self._link.call("GenerateResponses", self._stub.GenerateResponses, request, timeout=timeout)
            with self._link.reading("GenerateResponses"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_responses.responses_from_proto(result) for result in reply.results),
                    _convert.timing_from_proto(reply.timing),
                )

        call: BatchCall[Prompt, PromptResponses] = BatchCall(
            name="respond",
            item_id=lambda prompt: prompt.id,
            size=lambda prompt: sample_bytes(Sample(prompt.id, prompt.messages)),
            send=send,
            result_id=lambda result: result.prompt_id,
            refuse=PromptResponses,
            version=lambda: self._version_for(model),
        )
        reply = await send_batches(self._link, call, prompts, self._allowed)
        return ResponseBatch(reply.model, reply.results, reply.timing)


def _item_bytes(item: RewriteItem) -> int:
    return sample_bytes(item.sample) + sum(sample_bytes(neighbor) for neighbor in item.neighbors)


class Rewriting(Service):
    """The rewriting service, synchronous; see AsyncRewriting."""

    def __init__(self, loop: BackgroundLoop, twin: AsyncRewriting) -> None:
        super().__init__(loop)
        self._twin = twin

    @property
    def address(self) -> str:
        """See AsyncRewriting.address."""
        return self._twin.address

    def info(self, *, timeout: float | None = None) -> RewritingInfo:
        """See AsyncRewriting.info."""
        return self._loop.run(self._twin.info(timeout=timeout))

    def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:
        """See AsyncRewriting.load_model."""
        return self._loop.run(self._twin.load_model(model, timeout=timeout))

    def rewrite(
        self,
        items: Sequence[RewriteItem],
        strategy: Strategy,
        *,
        model: Model | None = None,
        sampling: Sampling | None = None,
        max_attempts: int | None = None,
        rules: ValidationRules | None = None,
        timeout: float | None = None,
    ) -> RewriteBatch:
        """See AsyncRewriting.rewrite."""
        return self._loop.run(
            self._twin.rewrite(
                items,
                strategy,
                model=model,
                sampling=sampling,
                max_attempts=max_attempts,
                rules=rules,
                timeout=timeout,
            )
        )

    def respond(
        self,
        prompts: Sequence[Prompt],
        *,
        model: Model | None = None,
        num_responses: int = 1,
        sampling: Sampling | None = None,
        return_tokens: bool = False,
        check: bool = False,
        timeout: float | None = None,
    ) -> ResponseBatch:
        """See AsyncRewriting.respond."""
        return self._loop.run(
            self._twin.respond(
                prompts,
                model=model,
                num_responses=num_responses,
                sampling=sampling,
                return_tokens=return_tokens,
                check=check,
                timeout=timeout,
            )
        )
