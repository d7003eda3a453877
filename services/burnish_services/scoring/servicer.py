"""The gRPC face of the scoring service: checks, converts, calls, replies. Algorithms are in core.py and judging.py."""
# ruff: noqa: N802 - the proto names the methods

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc.aio

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.base import ModelLoadError, Task
from burnish_services.engine.hosting import ModelHost, ModelName, ModelReference
from burnish_services.runtime import wire
from burnish_services.runtime.calls import current_call
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.runtime.role import Role, RoleContext, RoleUnavailable
from burnish_services.scoring import convert, convert_confidence
from burnish_services.scoring.comparing import compare_pairs, flip_rate
from burnish_services.scoring.config import ScoringSettings
from burnish_services.scoring.core import score_conversations
from burnish_services.scoring.estimator import Estimator
from burnish_services.scoring.judging import JUDGE_SAMPLING, judge_conversations
from burnish_services.scoring.rating import JudgePrompts
from burnish_services.scoring.rating_logits import rate_conversations

if TYPE_CHECKING:
    from burnish_services.engine.nli import Contradictions, NliModel

Context = grpc.aio.ServicerContext[Any, Any]
# The prompt files behind each kind of question; the judge that writes has its own, see rating.py.
_PROMPT_FILES = {"rate": ["rate"], "confidence": ["answer", "reflect"], "compare": ["compare"]}
# By which answers are read and compared, and lengths counted (`answers.py`); the first have none.
_RULES = {"confidence": "3", "compare": "2"}


class ScoringServicer(scoring_pb2_grpc.ScoringServiceServicer):
    """Implements burnish.api.scoring.v1.ScoringService: scores in one pass, ratings token by token."""

    def __init__(
        self,
        pool: ModelHost,
        generate: ModelHost,
        settings: ScoringSettings,
        version: str,
        process: ServerSettings,
        nli: Contradictions | None = None,
    ) -> None:
        self._pool = pool
        self._generate = generate
        self._settings = settings
        self._version = version
        self._process = process
        self._nli = nli
        self._judge_prompts = JudgePrompts()
        self._prompts = PromptFiles("burnish_services.scoring")

    async def GetInfo(self, request: scoring_pb2.GetInfoRequest, context: Context) -> scoring_pb2.GetInfoResponse:
        """What runs here."""
        info = wire.server_info(
            version=self._version,
            engine=self._scorer.engine.name,
            held=self._scorer.version,
            max_items=self._settings.max_items,
            process=self._process,
            max_concurrent_requests=self._settings.max_concurrent_requests,
            max_tokens_in_flight=self._settings.max_tokens_in_flight,
        )
        return scoring_pb2.GetInfoResponse(
            info=info,
            judge_prompt_digest=self._judge_prompts.digest,
            score_method=self._scorer.score_method,
            prompt_digests={
                "judge": self._judge_prompts.digest,
                **{kind: self._digest_of(kind) for kind in _PROMPT_FILES},
            },
            nli_model_digest=self._nli.digest if self._nli is not None else "",
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
        wire.check_batch(request.samples, (sample.id for sample in request.samples), self._settings.max_items)
        wanted = convert.wanted(request)
        conversations = [wire.messages(sample.messages) for sample in request.samples]
        record = current_call()
        host = self._scorer
        async with host.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
            results = await score_conversations(host.engine, conversations, wanted, record)
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
        wire.check_batch(request.samples, (sample.id for sample in request.samples), self._settings.max_items)
        dimensions, targets = convert.dimensions(request), convert.targets(request)
        by_logits = convert.by_logits(request)
        sampling = wire.resolve_sampling(request.sampling, JUDGE_SAMPLING)
        conversations = [wire.messages(sample.messages) for sample in request.samples]
        record = current_call()
        host = self._scorer if by_logits else self._generate
        async with host.using(self._as_scored(host, request.model)) as held:
            record.swap_seconds = held.swap_seconds
            if by_logits:
                results = await rate_conversations(
                    host.engine, self._prompts, conversations, dimensions, targets, record
                )
            else:
                results = await judge_conversations(
                    host.engine, self._judge_prompts, conversations, dimensions, targets, sampling, record
                )
        return scoring_pb2.JudgeSamplesResponse(
            model=wire.model_version(held),
            judgments=[
                convert.judgment_message(sample.id, result)
                for sample, result in zip(request.samples, results, strict=True)
            ],
            prompt_digest=self._digest_of("rate") if by_logits else self._judge_prompts.digest,
            timing=wire.timing(record),
        )

    def _digest_of(self, kind: str) -> str:
        return self._prompts.digest(_PROMPT_FILES[kind], _RULES.get(kind, ""))

    def _as_scored(self, host: ModelHost, named: common_pb2.ModelRef) -> ModelName:
        """What a request names; where it names nothing, what this server scores with, if `host` holds other weights."""
        scored, held = self._scorer.version, host.version
        if named.uri or named.digest or scored is None or (held is not None and held.digest == scored.digest):
            return named
        return ModelReference(scored.uri, scored.digest)

    async def EstimateConfidence(
        self, request: scoring_pb2.EstimateConfidenceRequest, context: Context
    ) -> scoring_pb2.EstimateConfidenceResponse:
        """Confidence in the responses of the batch."""
        wire.check_batch(request.samples, (sample.id for sample in request.samples), self._settings.max_items)
        asked = convert_confidence.asked(request)
        conversations = [wire.messages(sample.messages) for sample in request.samples]
        record = current_call()
        estimator = Estimator(self._scorer, self._generate, self._prompts, self._nli)
        held, results = await estimator.estimate(request.model, conversations, asked, record)
        return scoring_pb2.EstimateConfidenceResponse(
            model=wire.model_version(held),
            estimates=[
                convert_confidence.estimate_message(sample.id, result)
                for sample, result in zip(request.samples, results, strict=True)
            ],
            prompt_digest=self._digest_of("confidence"),
            timing=wire.timing(record),
        )

    async def ComparePairs(
        self, request: scoring_pb2.ComparePairsRequest, context: Context
    ) -> scoring_pb2.ComparePairsResponse:
        """Preferences of the batch."""
        wire.check_batch(request.pairs, (pair.id for pair in request.pairs), self._settings.max_items, "pairs")
        rules, pairs = convert_confidence.rules(request), [convert_confidence.pair(pair) for pair in request.pairs]
        record = current_call()
        host = self._scorer
        async with host.using(request.model) as held:
            record.swap_seconds = held.swap_seconds
            results = await compare_pairs(host.engine, self._prompts, pairs, rules, record)
        return scoring_pb2.ComparePairsResponse(
            model=wire.model_version(held),
            preferences=[
                convert_confidence.preference_message(pair.id, result)
                for pair, result in zip(request.pairs, results, strict=True)
            ],
            flip_rate=flip_rate(results),
            prompt_digest=self._digest_of("compare"),
            timing=wire.timing(record),
        )

    @property
    def _scorer(self) -> ModelHost:
        """Where scores come from: one pass over given tokens, unless the engine for that cannot score."""
        return self._pool if self._pool.score_method else self._generate


class ScoringRole(Role):
    """The scoring service in a server process."""

    name = "scoring"
    service_full_name: str = scoring_pb2.DESCRIPTOR.services_by_name["ScoringService"].full_name

    def __init__(self, context: RoleContext, settings: ScoringSettings) -> None:
        self.max_concurrent_requests = settings.max_concurrent_requests
        self.max_tokens_in_flight = settings.max_tokens_in_flight
        pool, generate = (context.engines.host(task) for task in (Task.POOL, Task.GENERATE))
        self._nli = _nli_model(settings)
        self._servicer = ScoringServicer(pool, generate, settings, context.version, context.settings, self._nli)

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """See Role."""
        scoring_pb2_grpc.add_ScoringServiceServicer_to_server(self._servicer, server)

    async def close(self) -> None:
        """See Role."""
        if self._nli is not None:
            self._nli.close()


def _nli_model(settings: ScoringSettings) -> NliModel | None:
    if settings.nli_model is None:
        return None
    from burnish_services.engine.nli import NliModel  # brings torch, which a fake engine does without

    try:
        return NliModel(settings.nli_model, settings.nli_batch_size)
    except ModelLoadError as error:
        raise RoleUnavailable(f"BURNISH_SCORING_NLI_MODEL: {error}") from error


def create(context: RoleContext) -> Role:
    """The role `scoring`, with its limits from the environment."""
    return ScoringRole(context, ScoringSettings())
