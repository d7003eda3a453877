"""Between burnish.api.rewriting.v1 and the service's own values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from burnish.api.common.v1 import common_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish_services.engine.base import EngineFailure, Generation, Sampling
from burnish_services.rewriting.core import Attempt, Item, Outcome, item_of
from burnish_services.rewriting.strategies import Strategy
from burnish_services.rewriting.validation import Rejected, Rejection, Rules
from burnish_services.runtime import wire
from burnish_services.runtime.errors import InvalidRequest, item_status

_STRATEGIES = {
    rewriting_pb2.STRATEGY_SIMPLIFY: Strategy.SIMPLIFY,
    rewriting_pb2.STRATEGY_IMPROVE: Strategy.IMPROVE,
    rewriting_pb2.STRATEGY_DIVERSIFY: Strategy.DIVERSIFY,
}
_MOST_ATTEMPTS = 10
_DEFAULT_ATTEMPTS = 3
_MOST_RESPONSES = 32
_FINISH_REASONS = {"stop": rewriting_pb2.FINISH_REASON_STOP, "length": rewriting_pb2.FINISH_REASON_LENGTH}


def requested_strategy(request: rewriting_pb2.RewriteSamplesRequest) -> Strategy:
    """The strategy asked for. Raises InvalidRequest."""
    known = _STRATEGIES.get(request.strategy)
    if known is None:
        raise InvalidRequest(
            "BAD_STRATEGY",
            f"strategy is {request.strategy}; expected one of the enum's values, and not 0",
            field="strategy",
        )
    return known


def requested_item(message: rewriting_pb2.RewriteItem, strategy: Strategy) -> Item | EngineFailure:
    """What to rewrite, or why there is nothing; neighbours count for DIVERSIFY only."""
    neighbors = message.neighbors if strategy is Strategy.DIVERSIFY else ()
    return item_of(wire.messages(message.sample.messages), [wire.messages(neighbor.messages) for neighbor in neighbors])


def requested_attempts(request: rewriting_pb2.RewriteSamplesRequest) -> int:
    """How often an item is tried. Raises InvalidRequest."""
    if not 0 <= request.max_attempts <= _MOST_ATTEMPTS:
        raise InvalidRequest(
            "BAD_ATTEMPTS",
            f"max_attempts is {request.max_attempts}; expected 1 to {_MOST_ATTEMPTS}, or 0 for 3",
            field="max_attempts",
        )
    return request.max_attempts or _DEFAULT_ATTEMPTS


def requested_rules(message: rewriting_pb2.ValidationRules) -> Rules:
    """The rules with defaults filled in. Raises InvalidRequest for bounds that nothing can satisfy."""
    given = {
        field: getattr(message, field)
        for field in (
            "min_prompt_chars", "max_prompt_chars", "min_response_chars", "max_response_chars", "max_similarity"
        )
        if message.HasField(field)
    }  # fmt: skip
    resolved = replace(Rules(allow_language_change=message.allow_language_change), **given)
    _check_bounds("prompt_chars", resolved.min_prompt_chars, resolved.max_prompt_chars)
    _check_bounds("response_chars", resolved.min_response_chars, resolved.max_response_chars)
    if not 0 < resolved.max_similarity <= 1:
        raise InvalidRequest(
            "BAD_RULES",
            f"rules.max_similarity is {resolved.max_similarity}; expected a value in (0, 1]",
            field="rules.max_similarity",
        )
    return resolved


def _check_bounds(what: str, least: int, most: int) -> None:
    if not 0 <= least <= most or most < 1:
        raise InvalidRequest(
            "BAD_RULES", f"rules.min_{what} is {least} and max_{what} is {most}; expected 0 <= min <= max, max >= 1"
        )


def requested_responses(request: rewriting_pb2.GenerateResponsesRequest, sampling: Sampling) -> int:
    """How often a prompt is responded to. Raises InvalidRequest."""
    if not 0 <= request.num_responses <= _MOST_RESPONSES:
        raise InvalidRequest(
            "BAD_RESPONSES",
            f"num_responses is {request.num_responses}; expected 1 to {_MOST_RESPONSES}, or 0 for 1",
            field="num_responses",
        )
    if request.num_responses > 1 and sampling.temperature == 0.0:
        raise InvalidRequest(
            "BAD_RESPONSES",
            f"num_responses is {request.num_responses} at temperature 0, where all responses are the same; expected 1, "
            "or a temperature above 0",
            field="num_responses",
        )
    return request.num_responses or 1


def responses_message(
    prompt_id: str,
    result: Sequence[Generation] | EngineFailure,
    rejection_of: Callable[[Generation], Rejected | None],
    *,
    return_tokens: bool,
) -> rewriting_pb2.PromptResponses:
    """The reply's entry for one prompt; `rejection_of` says what is wrong with a response."""
    if isinstance(result, EngineFailure):
        return rewriting_pb2.PromptResponses(prompt_id=prompt_id, status=item_status(result))
    responses = [_response_message(generation, rejection_of(generation), return_tokens) for generation in result]
    return rewriting_pb2.PromptResponses(prompt_id=prompt_id, status=common_pb2.ItemStatus(), responses=responses)


def _response_message(
    generation: Generation, rejected: Rejected | None, return_tokens: bool
) -> rewriting_pb2.GeneratedResponse:
    logprobs = np.asarray(generation.logprobs, dtype="<f4")
    message = rewriting_pb2.GeneratedResponse(
        text=generation.text,
        finish_reason=_FINISH_REASONS[generation.finish_reason],
        num_tokens=len(generation.token_ids),
        mean_logprob=float(logprobs.mean(dtype=np.float64)),
        rejection=_rejection(None if rejected is None else rejected.rejection),
        rejection_detail=rejected.detail if rejected is not None else "",
    )
    if return_tokens:
        message.token_ids = np.asarray(generation.token_ids, dtype="<i4").tobytes()
        message.logprobs = logprobs.tobytes()
    return message


def rewrite_message(sample_id: str, outcome: Outcome) -> rewriting_pb2.Rewrite:
    """The reply's entry for one item."""
    return rewriting_pb2.Rewrite(
        sample_id=sample_id,
        status=common_pb2.ItemStatus() if outcome.failure is None else item_status(outcome.failure),
        sample=None if outcome.messages is None else wire.sample_message(sample_id, outcome.messages),
        attempts=[_attempt_message(attempt) for attempt in outcome.attempts],
    )


def _attempt_message(attempt: Attempt) -> rewriting_pb2.Attempt:
    return rewriting_pb2.Attempt(
        rejection=_rejection(attempt.rejection),
        detail=attempt.detail,
        prompt_reply=attempt.prompt_reply,
        response_reply=attempt.response_reply,
    )


def _rejection(rejection: Rejection | None) -> rewriting_pb2.Rejection.ValueType:
    if rejection is None:
        return rewriting_pb2.REJECTION_UNSPECIFIED
    return rewriting_pb2.Rejection.Value(f"REJECTION_{rejection}")
