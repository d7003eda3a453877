"""Between burnish.api.scoring.v1 and the service's own values."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish_services.engine.base import EngineFailure
from burnish_services.engine.chat import Span
from burnish_services.runtime.errors import InvalidRequest, item_status
from burnish_services.scoring.choosing import Choice
from burnish_services.scoring.core import Wanted
from burnish_services.scoring.judging import Rated
from burnish_services.scoring.losses import SampleLoss, TurnLoss, UnconditionalLoss
from burnish_services.scoring.rating import Dimension, Target

_DIMENSIONS = {
    scoring_pb2.DIMENSION_CLARITY: Dimension.CLARITY,
    scoring_pb2.DIMENSION_COMPLETENESS: Dimension.COMPLETENESS,
    scoring_pb2.DIMENSION_FACTUALITY: Dimension.FACTUALITY,
}
_TARGETS = {
    scoring_pb2.TARGET_PROMPT: Target.PROMPT,
    scoring_pb2.TARGET_RESPONSE: Target.RESPONSE,
}
_SPANS = {
    scoring_pb2.TOKEN_SPAN_UNSPECIFIED: None,
    scoring_pb2.TOKEN_SPAN_USER: Span.USER,
    scoring_pb2.TOKEN_SPAN_RESPONSE: Span.RESPONSE,
    scoring_pb2.TOKEN_SPAN_ALL: Span.ALL,
}
_DIMENSION_NUMBERS = {dimension: number for number, dimension in _DIMENSIONS.items()}
_TARGET_NUMBERS = {target: number for number, target in _TARGETS.items()}


def dimensions(request: scoring_pb2.JudgeSamplesRequest) -> list[Dimension]:
    """The dimensions asked for, each once; all where none are named. Raises InvalidRequest."""
    unknown = [number for number in request.dimensions if number not in _DIMENSIONS]
    if unknown:
        raise InvalidRequest(
            "BAD_DIMENSION",
            f"dimensions has {unknown[0]}; expected some of the enum's values, and not 0",
            field="dimensions",
        )
    return list(dict.fromkeys(_DIMENSIONS[number] for number in request.dimensions)) or list(Dimension)


def targets(request: scoring_pb2.JudgeSamplesRequest) -> list[Target]:
    """The targets asked for, each once; both where none are named. Raises InvalidRequest."""
    unknown = [number for number in request.targets if number not in _TARGETS]
    if unknown:
        raise InvalidRequest(
            "BAD_TARGET", f"targets has {unknown[0]}; expected some of the enum's values, and not 0", field="targets"
        )
    return list(dict.fromkeys(_TARGETS[number] for number in request.targets)) or list(Target)


def wanted(request: scoring_pb2.ScoreSamplesRequest) -> Wanted:
    """What is asked for beside the losses. Raises InvalidRequest."""
    span = request.mean_hidden_state
    if span not in _SPANS:
        raise InvalidRequest(
            "BAD_SPAN", f"mean_hidden_state is {span}; expected one of the enum's values", field="mean_hidden_state"
        )
    return Wanted(request.score_unconditional, request.score_distribution, _SPANS[span])


def score_message(
    sample_id: str, result: SampleLoss | EngineFailure, *, return_tokens: bool
) -> scoring_pb2.SampleScore:
    """The reply's entry for one sample."""
    if isinstance(result, EngineFailure):
        return scoring_pb2.SampleScore(sample_id=sample_id, status=item_status(result))
    return scoring_pb2.SampleScore(
        sample_id=sample_id,
        status=common_pb2.ItemStatus(),
        mean_nll=result.mean_nll,
        sum_nll=result.sum_nll,
        perplexity=result.perplexity,
        num_tokens=result.num_tokens,
        num_sequence_tokens=result.num_sequence_tokens,
        turns=[_turn_message(turn, return_tokens) for turn in result.turns],
        mean_probability=result.mean_probability,
        min_probability=result.min_probability,
        unconditional=_unconditional_message(result.unconditional),
        mean_entropy=result.mean_entropy,
        mean_margin=result.mean_margin,
        mean_hidden_state=b"" if result.mean_hidden is None else result.mean_hidden.astype("<f4").tobytes(),
    )


def _unconditional_message(loss: UnconditionalLoss | None) -> scoring_pb2.UnconditionalScore | None:
    if loss is None:
        return None
    return scoring_pb2.UnconditionalScore(
        mean_nll=loss.mean_nll, num_tokens=loss.num_tokens, ifd=loss.ifd, pmi=loss.pmi
    )


def _turn_message(turn: TurnLoss, return_tokens: bool) -> scoring_pb2.TurnScore:
    message = scoring_pb2.TurnScore(
        message_index=turn.message_index, mean_nll=turn.mean_nll, sum_nll=turn.sum_nll, num_tokens=turn.num_tokens
    )
    if return_tokens:
        message.token_ids = turn.token_ids.astype("<i4").tobytes()
        message.logprobs = turn.logprobs.astype("<f4").tobytes()
    return message


def judgment_message(sample_id: str, result: Sequence[Rated] | EngineFailure) -> scoring_pb2.SampleJudgment:
    """The reply's entry for one sample."""
    if isinstance(result, EngineFailure):
        return scoring_pb2.SampleJudgment(sample_id=sample_id, status=item_status(result))
    return scoring_pb2.SampleJudgment(
        sample_id=sample_id, status=common_pb2.ItemStatus(), ratings=[_rating_message(rated) for rated in result]
    )


def by_logits(request: scoring_pb2.JudgeSamplesRequest) -> bool:
    """Whether ratings are read from digits' probabilities. Raises InvalidRequest."""
    if request.mode not in scoring_pb2.JudgeMode.values():
        raise InvalidRequest("BAD_MODE", f"mode is {request.mode}; expected one of the enum's values", field="mode")
    return request.mode == scoring_pb2.JUDGE_MODE_LOGIT


def choice_message(choice: Choice) -> scoring_pb2.Choice:
    """A choice as it was made."""
    return scoring_pb2.Choice(probabilities=choice.probabilities, covered_mass=choice.covered_mass)


def _rating_message(rated: Rated) -> scoring_pb2.Rating:
    return scoring_pb2.Rating(
        dimension=_DIMENSION_NUMBERS[rated.dimension],
        target=_TARGET_NUMBERS[rated.target],
        value=rated.value,
        status=common_pb2.ItemStatus() if rated.failure is None else item_status(rated.failure),
        reply=rated.reply,
        digits=None if rated.digits is None else choice_message(rated.digits),
    )
