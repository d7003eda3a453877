"""The gRPC face of the scoring service: checks, converts, calls, replies. Algorithms are in core.py and judging.py."""
# ruff: noqa: N802 - the proto names the methods

from __future__ import annotations

from typing import Any

import grpc.aio

from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.base import EngineFailure, Task
from burnish_services.engine.hosting import ModelHost
from burnish_services.runtime import wire
from burnish_services.runtime.calls import current_call
from burnish_services.runtime.role import Role, RoleContext
from burnish_services.scoring import convert
from burnish_services.scoring.config import ScoringSettings
from burnish_services.scoring.core import score_conversations
from burnish_services.scoring.judging import JUDGE_SAMPLING, judge_conversations
from burnish_services.scoring.rating import JudgePrompts

Context = grpc.aio.ServicerContext[Any, Any]


class ScoringServicer(scoring_pb2_grpc.ScoringServiceServicer):
    """Implements burnish.api.scoring.v1.ScoringService: scores in one pass, ratings token by token."""

    def __init__(self, pool: ModelHost, generate: ModelHost, settings: ScoringSettings, version: str) -> None:
        self._pool = pool
        self._generate = generate
        self._settings = settings
        self._version = version
        self._prompts = JudgePrompts()

    async def GetInfo(self, request: scoring_pb2.GetInfoRequest, context: Context) -> scoring_pb2.GetInfoResponse:
        """What runs here."""
        info = wire.server_info(
            version=self._version,
            engine=self._scorer.engine.name,
            held=self._scorer.version,
            max_items=self._settings.max_items,
            max_concurrent_requests=self._settings.max_concurrent_requests,
        )
        return scoring_pb2.GetInfoResponse(
            info=info, judge_prompt_digest=self._prompts.digest, score_method=self._scorer.engine.score_method
        )

    async def LoadModel(self, request: scoring_pb2.LoadModelRequest, context: Context) -> scoring_pb2.LoadModelResponse:
        """Has the weights loaded and says which they are."""
        wire.require_uri(request.model)
        record = current_call()
        async with self._generate.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
        async with self._scorer.using(request.model) as held:
            record.swap_seconds += held.swap_seconds
        return scoring_pb2.LoadModelResponse(model=wire.model_version(held), timing=wire.timing(record))

    async def ScoreSamples(
        self, request: scoring_pb2.ScoreSamplesRequest, context: Context
    ) -> scoring_pb2.ScoreSamplesResponse:
        """Losses of the batch."""
        wire.check_batch([sample.id for sample in request.samples], self._settings.max_items)
        wanted = convert.wanted(request)
        conversations = [wire.chat_messages(sample) for sample in request.samples]
        record = current_call()
        host = self._scorer
        async with host.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
            results = await score_conversations(host.engine, conversations, wanted, record)
        record.failed_items = sum(isinstance(result, EngineFailure) for result in results)
        return scoring_pb2.ScoreSamplesResponse(
            model=wire.model_version(held),
            scores=[
                convert.score_message(sample.id, result, return_tokens=request.return_tokens)
                for sample, result in zip(request.samples, results, strict=True)
            ],
            timing=wire.timing(record),
        )

    async def JudgeSamples(
        self, request: scoring_pb2.JudgeSamplesRequest, context: Context
    ) -> scoring_pb2.JudgeSamplesResponse:
        """Ratings of the batch."""
        wire.check_batch([sample.id for sample in request.samples], self._settings.max_items)
        dimensions, targets = convert.dimensions(request), convert.targets(request)
        sampling = wire.resolve_sampling(request.sampling, JUDGE_SAMPLING)
        conversations = [wire.chat_messages(sample) for sample in request.samples]
        record = current_call()
        async with self._generate.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
            results = await judge_conversations(
                self._generate.engine, self._prompts, conversations, dimensions, targets, sampling, record
            )
        record.failed_items = sum(isinstance(result, EngineFailure) for result in results)
        return scoring_pb2.JudgeSamplesResponse(
            model=wire.model_version(held),
            judgments=[
                convert.judgment_message(sample.id, result)
                for sample, result in zip(request.samples, results, strict=True)
            ],
            prompt_digest=self._prompts.digest,
            timing=wire.timing(record),
        )

    @property
    def _scorer(self) -> ModelHost:
        """Where scores come from: one pass over given tokens, unless the engine for that cannot score."""
        return self._pool if self._pool.engine.score_method else self._generate


class ScoringRole(Role):
    """The scoring service in a server process."""

    name = "scoring"
    service_full_name: str = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name

    def __init__(self, context: RoleContext, settings: ScoringSettings) -> None:
        self.max_concurrent_requests = settings.max_concurrent_requests
        pool, generate = (context.engines.host(task) for task in (Task.POOL, Task.GENERATE))
        self._servicer = ScoringServicer(pool, generate, settings, context.version)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """See Role."""
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(self._servicer, server)


def create(context: RoleContext) -> Role:
    """The role `scoring`, with its limits from the environment."""
    return ScoringRole(context, ScoringSettings())
