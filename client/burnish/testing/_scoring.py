"""The fake scoring service: one log-probability per word, ratings drawn from a hash. Private."""

from __future__ import annotations

import numpy as np

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.testing._state import Context, FakeState, draw, failed, text_of

# ruff: noqa: N802 - gRPC names the methods

PROMPT_DIGESTS = {kind: f"{kind:0>16}" for kind in ("judge", "rate", "confidence", "compare")}


class FakeScoring(scoring_pb2_grpc.ScoringServiceServicer):
    """Scores of one number per word; ratings drawn from a hash."""

    def __init__(self, state: FakeState) -> None:
        self._state = state

    def GetInfo(self, request: scoring_pb2.GetInfoRequest, context: Context) -> scoring_pb2.GetInfoResponse:
        return scoring_pb2.GetInfoResponse(info=self._state.info(), score_method="fake", prompt_digests=PROMPT_DIGESTS)

    def LoadModel(self, request: scoring_pb2.LoadModelRequest, context: Context) -> scoring_pb2.LoadModelResponse:
        return scoring_pb2.LoadModelResponse(model=self._state.version(request.model))

    def ScoreSamples(
        self, request: scoring_pb2.ScoreSamplesRequest, context: Context
    ) -> scoring_pb2.ScoreSamplesResponse:
        version = self._state.serve(request.model, [sample.id for sample in request.samples], context)
        reply = scoring_pb2.ScoreSamplesResponse(model=version)
        for sample in request.samples:
            reply.scores.append(_score(sample, version.digest, request))
        reply.timing.prompt_tokens = sum(score.num_sequence_tokens for score in reply.scores)
        reply.timing.engine.FromMilliseconds(1500)
        return reply

    def JudgeSamples(
        self, request: scoring_pb2.JudgeSamplesRequest, context: Context
    ) -> scoring_pb2.JudgeSamplesResponse:
        version = self._state.serve(request.model, [sample.id for sample in request.samples], context)
        kind = "rate" if request.mode == scoring_pb2.JUDGE_MODE_LOGIT else "judge"
        reply = scoring_pb2.JudgeSamplesResponse(model=version, prompt_digest=PROMPT_DIGESTS[kind])
        for sample in request.samples:
            judgment = reply.judgments.add(sample_id=sample.id)
            for dimension in request.dimensions or (1, 2, 3):
                for target in request.targets or (1, 2):
                    drawn = draw(version.digest, text_of(sample), str(dimension), str(target))
                    value = float(drawn.integers(0, 11))
                    rating = judgment.ratings.add(dimension=dimension, target=target)
                    if request.mode == scoring_pb2.JUDGE_MODE_LOGIT:
                        shares = drawn.dirichlet([1.0] * 10)
                        rating.value = float(shares @ range(10)) * 10 / 9
                        rating.digits.probabilities.extend(shares)
                        rating.digits.covered_mass = 0.9
                    elif value:
                        rating.value, rating.reply = value, f"{value:g}"
                    else:
                        rating.status.CopyFrom(failed("UNPARSEABLE"))
                        rating.reply = "hard to say"
        return reply

    def EstimateConfidence(
        self, request: scoring_pb2.EstimateConfidenceRequest, context: Context
    ) -> scoring_pb2.EstimateConfidenceResponse:
        version = self._state.serve(request.model, [sample.id for sample in request.samples], context)
        reply = scoring_pb2.EstimateConfidenceResponse(model=version, prompt_digest=PROMPT_DIGESTS["confidence"])
        for sample in request.samples:
            reply.estimates.append(_estimate(sample, version.digest, request))
        return reply

    def ComparePairs(
        self, request: scoring_pb2.ComparePairsRequest, context: Context
    ) -> scoring_pb2.ComparePairsResponse:
        version = self._state.serve(request.model, [pair.id for pair in request.pairs], context)
        reply = scoring_pb2.ComparePairsResponse(model=version, prompt_digest=PROMPT_DIGESTS["compare"])
        for pair in request.pairs:
            preference = reply.preferences.add(pair_id=pair.id)
            if not (pair.first and pair.second):
                preference.status.CopyFrom(failed("EMPTY_RESPONSE"))
                continue
            # Exchanging the responses gives one minus the probability.
            one, other = (draw(version.digest, text).random() for text in (pair.first, pair.second))
            preference.p_second = other / (one + other)
            names = scoring_pb2.WINNER_FIRST, scoring_pb2.WINNER_TIE, scoring_pb2.WINNER_SECOND
            preference.winner = names[1 + (other > one) - (other < one)]
            for _ in range(2):
                preference.orders.add(probabilities=[1 - preference.p_second, preference.p_second, 0], covered_mass=0.9)
        return reply


def _estimate(
    sample: common_pb2.Sample, digest: str, request: scoring_pb2.EstimateConfidenceRequest
) -> scoring_pb2.ConfidenceEstimate:
    if not sample.messages or not sample.messages[-1].content:
        return scoring_pb2.ConfidenceEstimate(sample_id=sample.id, status=failed("EMPTY_RESPONSE"))
    drawn = draw(digest, text_of(sample), "confidence")
    estimate = scoring_pb2.ConfidenceEstimate(
        sample_id=sample.id, reflection=drawn.random(), covered_mass=0.9, mean_nll=1.5, mean_probability=0.4
    )
    estimate.min_probability, estimate.confidence = 0.01, estimate.reflection
    for _ in range(6):
        share = estimate.reflection
        estimate.reflections.add(probabilities=[share, 1 - share, 0.0], covered_mass=0.9)
    if request.tier > scoring_pb2.CONFIDENCE_TIER_FAST:
        beta = request.beta if request.HasField("beta") else 0.7
        for _ in range(request.num_answers or 5):
            near = drawn.random()
            estimate.answers.add(text="so", reply="So. Answer: so", similarity=near, agreement=0.8 * near)
        estimate.consistency = sum(answer.agreement for answer in estimate.answers) / len(estimate.answers)
        estimate.confidence = beta * estimate.consistency + (1 - beta) * estimate.reflection
    return estimate


def _score(sample: common_pb2.Sample, digest: str, request: scoring_pb2.ScoreSamplesRequest) -> scoring_pb2.SampleScore:
    if not sample.messages or not sample.messages[-1].content:
        return scoring_pb2.SampleScore(sample_id=sample.id, status=failed("EMPTY_RESPONSE"))
    words = sample.messages[-1].content.split() or ["?"]
    logprobs = (-draw(digest, text_of(sample)).gamma(2.0, 0.7, len(words))).astype("<f4")
    total = float(-logprobs.sum(dtype=np.float64))
    score = scoring_pb2.SampleScore(
        sample_id=sample.id,
        mean_nll=total / len(words),
        sum_nll=total,
        perplexity=float(np.exp(total / len(words))),
        num_tokens=len(words),
        num_sequence_tokens=sum(len(message.content.split()) for message in sample.messages),
        mean_probability=float(np.exp(logprobs).mean()),
        min_probability=float(np.exp(logprobs.min())),
    )
    if request.score_unconditional:
        without = total * 1.25
        score.unconditional.mean_nll, score.unconditional.num_tokens = without / len(words), len(words)
        score.unconditional.ifd, score.unconditional.pmi = total / without, (without - total) / len(words)
    if request.score_distribution:
        score.mean_entropy, score.mean_margin = score.mean_nll, score.mean_probability
    if request.mean_hidden_state:
        score.mean_hidden_state = draw(digest, text_of(sample), "hidden").normal(size=8).astype("<f4").tobytes()
    turn = score.turns.add(
        message_index=len(sample.messages) - 1, mean_nll=score.mean_nll, sum_nll=total, num_tokens=len(words)
    )
    if request.return_tokens:
        turn.token_ids, turn.logprobs = np.arange(len(words), dtype="<i4").tobytes(), logprobs.tobytes()
    return score
