"""Between burnish.api.scoring.v1 and the values of EstimateConfidence and ComparePairs."""

from __future__ import annotations

import math

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish_services.engine.base import EngineFailure
from burnish_services.runtime import wire
from burnish_services.runtime.errors import InvalidRequest, item_status
from burnish_services.scoring.answering import ANSWER_SAMPLING
from burnish_services.scoring.comparing import Pair, Preference, Rules, Winner
from burnish_services.scoring.confidence import ALPHA, BETA, NUM_ANSWERS, Weights
from burnish_services.scoring.convert import choice_message
from burnish_services.scoring.estimating import Compared, Estimate
from burnish_services.scoring.estimator import Asked, Tier

_TIERS = {
    scoring_pb2.CONFIDENCE_TIER_UNSPECIFIED: Tier.FAST,
    scoring_pb2.CONFIDENCE_TIER_FAST: Tier.FAST,
    scoring_pb2.CONFIDENCE_TIER_STANDARD: Tier.STANDARD,
    scoring_pb2.CONFIDENCE_TIER_FULL: Tier.FULL,
}
_WINNERS = {
    Winner.FIRST: scoring_pb2.WINNER_FIRST,
    Winner.SECOND: scoring_pb2.WINNER_SECOND,
    Winner.TIE: scoring_pb2.WINNER_TIE,
}
_MOST_ANSWERS = 32


def asked(request: scoring_pb2.EstimateConfidenceRequest) -> Asked:
    """What is asked for, defaults resolved. Raises InvalidRequest."""
    if request.tier not in _TIERS:
        raise InvalidRequest("BAD_TIER", f"tier is {request.tier}; expected one of the enum's values", field="tier")
    weights = Weights(
        _share("alpha", request.alpha if request.HasField("alpha") else ALPHA),
        _share("beta", request.beta if request.HasField("beta") else BETA),
        _share("likelihood_weight", request.likelihood_weight),
    )
    count = request.num_answers if request.HasField("num_answers") else NUM_ANSWERS
    if not 1 <= count <= _MOST_ANSWERS:
        raise InvalidRequest(
            "BAD_NUMBER", f"num_answers is {count}; expected a value in [1, {_MOST_ANSWERS}]", field="num_answers"
        )
    return Asked(
        _TIERS[request.tier],
        weights,
        count,
        wire.resolve_sampling(request.sampling, ANSWER_SAMPLING),
        _least_mass(request),
    )


def rules(request: scoring_pb2.ComparePairsRequest) -> Rules:
    """How verdicts come about. Raises InvalidRequest."""
    ratio = request.max_length_ratio
    if ratio != 0.0 and not (1.0 <= ratio < math.inf):
        raise InvalidRequest(
            "BAD_NUMBER",
            f"max_length_ratio is {ratio}; expected 0 (no guard) or a value in [1, ∞)",
            field="max_length_ratio",
        )
    return Rules(ratio, _least_mass(request))


def pair(message: scoring_pb2.ResponsePair) -> Pair:
    """The two responses and what they respond to."""
    return Pair(wire.messages(message.prompt), message.first, message.second)


def estimate_message(sample_id: str, result: Estimate | EngineFailure) -> scoring_pb2.ConfidenceEstimate:
    """The reply's entry for one sample."""
    if isinstance(result, EngineFailure):
        return scoring_pb2.ConfidenceEstimate(sample_id=sample_id, status=item_status(result))
    belief = result.belief
    return scoring_pb2.ConfidenceEstimate(
        sample_id=sample_id,
        status=common_pb2.ItemStatus(),
        confidence=result.confidence,
        consistency=result.consistency,
        reflection=result.reflection,
        covered_mass=belief.covered_mass,
        reflections=[choice_message(verdict) for verdict in belief.verdicts],
        answers=[_answer_message(answer) for answer in result.answers],
        mean_nll=belief.response.mean_nll,
        mean_probability=belief.response.mean_probability,
        min_probability=belief.response.min_probability,
    )


def _answer_message(compared: Compared) -> scoring_pb2.SampledAnswer:
    answer = compared.answer
    return scoring_pb2.SampledAnswer(
        text=answer.text,
        reply=answer.reply,
        status=common_pb2.ItemStatus() if answer.failure is None else item_status(answer.failure),
        exact_match=compared.exact_match,
        similarity=compared.similarity or 0.0,
        agreement=compared.agreement or 0.0,
    )


def preference_message(pair_id: str, result: Preference | EngineFailure) -> scoring_pb2.Preference:
    """The reply's entry for one pair."""
    if isinstance(result, EngineFailure):
        return scoring_pb2.Preference(pair_id=pair_id, status=item_status(result))
    return scoring_pb2.Preference(
        pair_id=pair_id,
        status=common_pb2.ItemStatus(),
        p_second=result.p_second,
        winner=_WINNERS[result.winner],
        orders=[choice_message(order) for order in result.orders],
        flipped=result.flipped,
        log_length_ratio=result.log_length_ratio,
        length_guarded=result.length_guarded,
    )


def _least_mass(request: scoring_pb2.EstimateConfidenceRequest | scoring_pb2.ComparePairsRequest) -> float:
    given = request.HasField("min_covered_mass")
    return _share("min_covered_mass", request.min_covered_mass if given else Asked().min_covered_mass)


def _share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise InvalidRequest("BAD_NUMBER", f"{name} is {value}; expected a value in [0, 1]", field=name)
    return value
