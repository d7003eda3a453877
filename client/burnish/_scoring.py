"""`client.scoring`: how likely a model finds given responses, and how it judges samples itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from burnish import _convert, _convert_confidence, _convert_replies
from burnish._batches import BatchCall, Reply, sample_bytes, send_batches
from burnish._confidence_types import (
    CompareBatch,
    ConfidenceBatch,
    ConfidenceEstimate,
    ConfidenceTier,
    Preference,
    ResponsePair,
)
from burnish._convert import Model
from burnish._loop import BackgroundLoop
from burnish._service import AsyncModelService, Service
from burnish._types import (
    Dimension,
    ItemStatus,
    JudgeBatch,
    JudgeMode,
    Message,
    ModelVersion,
    Role,
    Sample,
    SampleJudgment,
    SampleScore,
    Sampling,
    ScoreBatch,
    ScoringInfo,
    Target,
    TokenSpan,
)
from burnish.api.scoring.v1 import scoring_pb2 as pb
from burnish.api.scoring.v1 import scoring_pb2_grpc

if TYPE_CHECKING:
    from burnish.api.scoring.v1.scoring_pb2_grpc import ScoringServiceAsyncStub

# ruff: noqa: ASYNC109 - every `timeout` is a gRPC deadline: seconds for each request that a call makes


class AsyncScoring(AsyncModelService):
    """The scoring service. `timeout` is in seconds for each request to the service; a long batch makes several."""

    @cached_property
    def _stub(self) -> ScoringServiceAsyncStub:
        return scoring_pb2_grpc.ScoringServiceStub(self._link.channel())

    async def info(self, *, timeout: float | None = None) -> ScoringInfo:
        """What the server runs, its limits and its judge's prompts; quick, never loads a model."""
        reply = await self._link.call("GetInfo", self._stub.GetInfo, pb.GetInfoRequest(), timeout=timeout)
        info = _convert.info_from_proto(reply.info)
        self._limits = info.limits
        return ScoringInfo(
            info.version,
            info.engine,
            info.model,
            info.limits,
            info.notes,
            score_method=reply.score_method,
            prompt_digests=dict(reply.prompt_digests),
            nli_model_digest=reply.nli_model_digest,
        )

    async def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:
        """Loads weights ahead of use, checks them and says which version is held; quick where they are held."""
        request = pb.LoadModelRequest(model=_convert.model_to_proto(model))
        reply = await self._link.call("LoadModel", self._stub.LoadModel, request, timeout=timeout)
        with self._link.reading("LoadModel"):
            return _convert.required_version(reply)

    async def score(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        return_tokens: bool = False,
        unconditional: bool = False,
        distribution: bool = False,
        mean_hidden_state: TokenSpan | None = None,
        timeout: float | None = None,
    ) -> ScoreBatch:
        """Loss and perplexity of each sample's responses under `model` (None: whatever the service holds).

        Any number of samples; ids unique. One SampleScore per sample, in order; a failed one has no numbers. With
        `return_tokens`, token ids and log-probabilities (nats) too; with `unconditional`, the responses without their
        prompts, IFD and PMI; with `distribution`, entropy and margin; with `mean_hidden_state`, the mean over those
        tokens, from the same pass. Raises UsageError and ServiceError.
        """
        span = 0 if mean_hidden_state is None else _convert.TOKEN_SPANS.number(mean_hidden_state)

        async def send(part: Sequence[Sample]) -> Reply[SampleScore]:
            request = pb.ScoreSamplesRequest(
                model=_convert.model_to_proto(model),
                samples=[_convert.sample_to_proto(sample) for sample in part],
                return_tokens=return_tokens,
                score_unconditional=unconditional,
                score_distribution=distribution,
                mean_hidden_state=span,  # type: ignore[arg-type]
            )
            reply = await self._link.call("ScoreSamples", self._stub.ScoreSamples, request, timeout=timeout)
            with self._link.reading("ScoreSamples"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_replies.score_from_proto(score) for score in reply.scores),
                    _convert.timing_from_proto(reply.timing),
                )

        call: BatchCall[Sample, SampleScore] = BatchCall(
            name="score",
            item_id=lambda sample: sample.id,
            size=sample_bytes,
            send=send,
            result_id=lambda score: score.sample_id,
            refuse=SampleScore,
            version=lambda: self._version_for(model),
        )
        reply = await send_batches(self._link, call, samples, self._allowed)
        return ScoreBatch(reply.model, reply.results, reply.timing)

    async def judge(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        dimensions: Sequence[Dimension] = (),
        targets: Sequence[Target] = (),
        sampling: Sampling | None = None,
        mode: JudgeMode = JudgeMode.GENERATED,
        timeout: float | None = None,
    ) -> JudgeBatch:
        """Lets `model` rate each sample on `dimensions` of `targets`, in [0, 10]; empty means all of them.

        One SampleJudgment per sample, in order. A rating whose reply has no number has value None, never a default.
        In logit mode `sampling` is ignored: one pass, no chance. Raises UsageError and ServiceError.
        """
        settings, how = _convert.sampling_to_proto(sampling), _convert.JUDGE_MODES.number(mode)
        wanted = _convert.numbers(_convert.DIMENSIONS, dimensions), _convert.numbers(_convert.TARGETS, targets)

        async def send(part: Sequence[Sample]) -> Reply[SampleJudgment]:
            request = pb.JudgeSamplesRequest(
                model=_convert.model_to_proto(model),
                samples=[_convert.sample_to_proto(sample) for sample in part],
                dimensions=wanted[0],
                targets=wanted[1],
                sampling=settings,
                mode=how,
            )
            reply = await self._link.call("JudgeSamples", self._stub.JudgeSamples, request, timeout=timeout)
            with self._link.reading("JudgeSamples"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_replies.judgment_from_proto(judgment) for judgment in reply.judgments),
                    _convert.timing_from_proto(reply.timing),
                    reply.prompt_digest,
                )

        call: BatchCall[Sample, SampleJudgment] = BatchCall(
            name="judge",
            item_id=lambda sample: sample.id,
            size=sample_bytes,
            send=send,
            result_id=lambda judgment: judgment.sample_id,
            refuse=_refuse_judgment,
            version=lambda: self._version_for(model),
            prompts=lambda: self._prompts_of("rate" if JudgeMode(mode) is JudgeMode.LOGIT else "judge"),
        )
        reply = await send_batches(self._link, call, samples, self._allowed)
        return JudgeBatch(reply.model, reply.results, reply.prompts, reply.timing)

    async def confidence(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        tier: ConfidenceTier = ConfidenceTier.FAST,
        alpha: float | None = None,
        beta: float | None = None,
        likelihood_weight: float | None = None,
        num_answers: int | None = None,
        sampling: Sampling | None = None,
        min_covered_mass: float | None = None,
        timeout: float | None = None,
    ) -> ConfidenceBatch:
        """How confident `model` is that each sample's last response is right, in [0, 1] (BSDetector; CLEAR).

        C = beta O + (1 - beta) S with O the consistency of `num_answers` sampled answers (not in the fast tier) and S
        the model's own verdicts. What is None has the default that the proto states. One ConfidenceEstimate per sample,
        in order. Raises UsageError, ServiceError, and PreconditionFailed for the full tier without an NLI model.
        """
        settings, level = _convert.sampling_to_proto(sampling), _convert_confidence.TIERS.number(tier)
        given = {"alpha": alpha, "beta": beta, "likelihood_weight": likelihood_weight, "num_answers": num_answers}
        given |= {"min_covered_mass": min_covered_mass}

        async def send(part: Sequence[Sample]) -> Reply[ConfidenceEstimate]:
            request = pb.EstimateConfidenceRequest(
                model=_convert.model_to_proto(model),
                samples=[_convert.sample_to_proto(sample) for sample in part],
                tier=level,
                sampling=settings,
            )
            _convert.set_options(request, given, "confidence")
            reply = await self._link.call("EstimateConfidence", self._stub.EstimateConfidence, request, timeout=timeout)
            with self._link.reading("EstimateConfidence"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_confidence.estimate_from_proto(estimate) for estimate in reply.estimates),
                    _convert.timing_from_proto(reply.timing),
                    reply.prompt_digest,
                )

        call: BatchCall[Sample, ConfidenceEstimate] = BatchCall(
            name="confidence",
            item_id=lambda sample: sample.id,
            size=sample_bytes,
            send=send,
            result_id=lambda estimate: estimate.sample_id,
            refuse=ConfidenceEstimate,
            version=lambda: self._version_for(model),
            prompts=lambda: self._prompts_of("confidence"),
        )
        reply = await send_batches(self._link, call, samples, self._allowed)
        return ConfidenceBatch(reply.model, reply.results, reply.prompts, reply.timing)

    async def compare(
        self,
        pairs: Sequence[ResponsePair],
        *,
        model: Model | None = None,
        max_length_ratio: float | None = None,
        min_covered_mass: float | None = None,
        timeout: float | None = None,
    ) -> CompareBatch:
        """Which response of each pair `model` prefers, asked in both orders; a win must be one in both.

        `max_length_ratio`: beyond it, in words, the longer response can't win. One Preference per pair, in order.
        Raises UsageError and ServiceError.
        """
        given = {"max_length_ratio": max_length_ratio, "min_covered_mass": min_covered_mass}

        async def send(part: Sequence[ResponsePair]) -> Reply[Preference]:
            request = pb.ComparePairsRequest(
                model=_convert.model_to_proto(model), pairs=[_convert_confidence.pair_to_proto(pair) for pair in part]
            )
            _convert.set_options(request, given, "compare")
            reply = await self._link.call("ComparePairs", self._stub.ComparePairs, request, timeout=timeout)
            with self._link.reading("ComparePairs"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_confidence.preference_from_proto(one) for one in reply.preferences),
                    _convert.timing_from_proto(reply.timing),
                    reply.prompt_digest,
                )

        call: BatchCall[ResponsePair, Preference] = BatchCall(
            name="compare",
            item_id=lambda pair: pair.id,
            size=lambda pair: sample_bytes(Sample(pair.id, (*pair.prompt, *_as_messages(pair)))),
            send=send,
            result_id=lambda preference: preference.pair_id,
            refuse=Preference,
            version=lambda: self._version_for(model),
            prompts=lambda: self._prompts_of("compare"),
        )
        reply = await send_batches(self._link, call, pairs, self._allowed)
        return CompareBatch(reply.model, reply.results, reply.prompts, reply.timing)

    async def _prompts_of(self, kind: str) -> str:
        return (await self.info()).prompt_digests.get(kind, "")


def _as_messages(pair: ResponsePair) -> tuple[Message, Message]:
    return Message(Role.ASSISTANT, pair.first), Message(Role.ASSISTANT, pair.second)


def _refuse_judgment(sample_id: str, status: ItemStatus) -> SampleJudgment:
    return SampleJudgment(sample_id, status)


class Scoring(Service):
    """The scoring service, synchronous; see AsyncScoring."""

    def __init__(self, loop: BackgroundLoop, twin: AsyncScoring) -> None:
        super().__init__(loop)
        self._twin = twin

    @property
    def address(self) -> str:
        """See AsyncScoring.address."""
        return self._twin.address

    def info(self, *, timeout: float | None = None) -> ScoringInfo:
        """See AsyncScoring.info."""
        return self._loop.run(self._twin.info(timeout=timeout))

    def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:
        """See AsyncScoring.load_model."""
        return self._loop.run(self._twin.load_model(model, timeout=timeout))

    def score(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        return_tokens: bool = False,
        unconditional: bool = False,
        distribution: bool = False,
        mean_hidden_state: TokenSpan | None = None,
        timeout: float | None = None,
    ) -> ScoreBatch:
        """See AsyncScoring.score."""
        return self._loop.run(
            self._twin.score(
                samples,
                model=model,
                return_tokens=return_tokens,
                unconditional=unconditional,
                distribution=distribution,
                mean_hidden_state=mean_hidden_state,
                timeout=timeout,
            )
        )

    def judge(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        dimensions: Sequence[Dimension] = (),
        targets: Sequence[Target] = (),
        sampling: Sampling | None = None,
        mode: JudgeMode = JudgeMode.GENERATED,
        timeout: float | None = None,
    ) -> JudgeBatch:
        """See AsyncScoring.judge."""
        return self._loop.run(
            self._twin.judge(
                samples,
                model=model,
                dimensions=dimensions,
                targets=targets,
                sampling=sampling,
                mode=mode,
                timeout=timeout,
            )
        )

    def confidence(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        tier: ConfidenceTier = ConfidenceTier.FAST,
        alpha: float | None = None,
        beta: float | None = None,
        likelihood_weight: float | None = None,
        num_answers: int | None = None,
        sampling: Sampling | None = None,
        min_covered_mass: float | None = None,
        timeout: float | None = None,
    ) -> ConfidenceBatch:
        """See AsyncScoring.confidence."""
        return self._loop.run(
            self._twin.confidence(
                samples,
                model=model,
                tier=tier,
                alpha=alpha,
                beta=beta,
                likelihood_weight=likelihood_weight,
                num_answers=num_answers,
                sampling=sampling,
                min_covered_mass=min_covered_mass,
                timeout=timeout,
            )
        )

    def compare(
        self,
        pairs: Sequence[ResponsePair],
        *,
        model: Model | None = None,
        max_length_ratio: float | None = None,
        min_covered_mass: float | None = None,
        timeout: float | None = None,
    ) -> CompareBatch:
        """See AsyncScoring.compare."""
        return self._loop.run(
            self._twin.compare(
                pairs,
                model=model,
                max_length_ratio=max_length_ratio,
                min_covered_mass=min_covered_mass,
                timeout=timeout,
            )
        )
