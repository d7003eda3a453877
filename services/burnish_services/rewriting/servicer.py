"""The gRPC face of the rewriting service: checks, converts, calls, replies. How a rewrite comes about is in
core.py, what it must satisfy in validation.py; plain responses are made in responding.py."""
# ruff: noqa: N802 - the proto names the methods

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc.aio

from burnish.api.rewriting.v1 import rewriting_pb2, rewriting_pb2_grpc
from burnish_services.engine.base import Task
from burnish_services.engine.hosting import ModelHost
from burnish_services.rewriting import convert
from burnish_services.rewriting.config import RewritingSettings
from burnish_services.rewriting.core import REWRITE_SAMPLING, Rewriter
from burnish_services.rewriting.responding import RESPONSE_SAMPLING, Responder, rejection_of
from burnish_services.rewriting.strategies import RewritePrompts, Strategy
from burnish_services.runtime import wire
from burnish_services.runtime.calls import current_call
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.role import Role, RoleContext

Context = grpc.aio.ServicerContext[Any, Any]


class RewritingServicer(rewriting_pb2_grpc.RewritingServiceServicer):
    """Implements burnish.api.rewriting.v1.RewritingService on one ModelHost."""

    def __init__(self, host: ModelHost, settings: RewritingSettings, version: str, process: ServerSettings) -> None:
        self._host = host
        self._settings = settings
        self._version = version
        self._process = process
        self._prompts = RewritePrompts()

    async def GetInfo(self, request: rewriting_pb2.GetInfoRequest, context: Context) -> rewriting_pb2.GetInfoResponse:
        """What runs here."""
        info = wire.server_info(
            version=self._version,
            engine=self._host.engine.name,
            held=self._host.version,
            max_items=self._settings.max_items,
            process=self._process,
            max_concurrent_requests=self._settings.max_concurrent_requests,
            max_tokens_in_flight=self._settings.max_tokens_in_flight,
        )
        versions = {str(strategy): self._prompts.version(strategy) for strategy in Strategy}
        return rewriting_pb2.GetInfoResponse(info=info, prompt_versions=versions)

    async def LoadModel(
        self, request: rewriting_pb2.LoadModelRequest, context: Context
    ) -> rewriting_pb2.LoadModelResponse:
        """Has the weights loaded and says which they are."""
        wire.require_uri(request.model)
        async with self._host.using(request.model) as held:
            record = current_call()
            record.swap_seconds = held.swap_seconds
        return rewriting_pb2.LoadModelResponse(model=wire.model_version(held), timing=wire.timing(record))

    async def RewriteSamples(
        self, request: rewriting_pb2.RewriteSamplesRequest, context: Context
    ) -> rewriting_pb2.RewriteSamplesResponse:
        """Rewrites of the batch."""
        wire.check_batch(request.items, (item.sample.id for item in request.items), self._settings.max_items, "items")
        strategy = convert.requested_strategy(request)
        rules, attempts = convert.requested_rules(request.rules), convert.requested_attempts(request)
        sampling = wire.resolve_sampling(request.sampling, REWRITE_SAMPLING)
        record = current_call()
        async with self._host.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
            rewriter = Rewriter(self._host.engine, self._prompts, strategy, rules, sampling, attempts, record)
            outcomes = await rewriter.rewrite([convert.requested_item(item, strategy) for item in request.items])
        return rewriting_pb2.RewriteSamplesResponse(
            model=wire.model_version(held),
            rewrites=[
                convert.rewrite_message(*pair)
                for pair in zip((item.sample.id for item in request.items), outcomes, strict=True)
            ],
            prompt_version=self._prompts.version(strategy),
            timing=wire.timing(record),
        )

    async def GenerateResponses(
        self, request: rewriting_pb2.GenerateResponsesRequest, context: Context
    ) -> rewriting_pb2.GenerateResponsesResponse:
        """Responses to the batch."""
        wire.check_batch(request.prompts, (one.id for one in request.prompts), self._settings.max_items, "prompts")
        sampling = wire.resolve_sampling(request.sampling, RESPONSE_SAMPLING)
        count = convert.requested_responses(request, sampling)
        record = current_call()
        async with self._host.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
            responder = Responder(self._host.engine, sampling, count, record)
            prompts = [wire.messages(prompt.messages) for prompt in request.prompts]
            results = await responder.respond(prompts)
        reply = rewriting_pb2.GenerateResponsesResponse(model=wire.model_version(held), timing=wire.timing(record))

        def add_results() -> None:
            for asked, prompt, result in zip(request.prompts, prompts, results, strict=True):
                check = partial(rejection_of, prompt) if request.check else lambda _: None
                reply.results.append(
                    convert.responses_message(asked.id, result, check, return_tokens=request.return_tokens)
                )

        await asyncio.to_thread(add_results)  # checks take seconds, for a large batch
        return reply


class RewritingRole(Role):
    """The rewriting service in a server process."""

    name = "rewriting"
    service_full_name: str = rewriting_pb2.DESCRIPTOR.services_by_name["RewritingService"].full_name

    def __init__(self, context: RoleContext, settings: RewritingSettings) -> None:
        self.max_concurrent_requests = settings.max_concurrent_requests
        self.max_tokens_in_flight = settings.max_tokens_in_flight
        host = context.engines.host(Task.GENERATE)
        self._servicer = RewritingServicer(host, settings, context.version, context.settings)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """See Role."""
        rewriting_pb2_grpc.add_RewritingServiceServicer_to_server(self._servicer, server)


def create(context: RoleContext) -> Role:
    """The role `rewriting`, with its limits from the environment."""
    return RewritingRole(context, RewritingSettings())
