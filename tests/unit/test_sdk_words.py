"""Every enum value on the wire has its word in the SDK, and the other way round."""

from __future__ import annotations

from enum import StrEnum

import pytest

from burnish._confidence_types import ConfidenceTier, Winner
from burnish._convert import DIMENSIONS, JUDGE_MODES, ROLES, STATES, STRATEGIES, TARGETS, TOKEN_SPANS
from burnish._convert_confidence import TIERS, WINNERS
from burnish._convert_coverage import METRICS, OBJECTIVES, OPTIMIZERS, POOLINGS, PROJECTIONS, RULES, SOURCES, WEIGHTINGS
from burnish._convert_replies import REJECTIONS
from burnish._convert_responses import FINISH_REASONS
from burnish._coverage_types import (
    ActivationPooling,
    CoverageObjective,
    CoverageOptimizer,
    FeatureRule,
    FeatureWeighting,
    ProjectionMethod,
)
from burnish._errors import UsageError
from burnish._response_types import FinishReason
from burnish._types import Dimension, JudgeMode, NeighborMetric, Role, RunState, Strategy, Target, TokenSpan
from burnish._words import Words, enum_words
from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.api.training.v1 import training_pb2

PAIRS = [
    (ROLES, common_pb2.Role, Role),
    (DIMENSIONS, scoring_pb2.Dimension, Dimension),
    (TARGETS, scoring_pb2.Target, Target),
    (JUDGE_MODES, scoring_pb2.JudgeMode, JudgeMode),
    (TIERS, scoring_pb2.ConfidenceTier, ConfidenceTier),
    (WINNERS, scoring_pb2.Winner, Winner),
    (TOKEN_SPANS, scoring_pb2.TokenSpan, TokenSpan),
    (STRATEGIES, rewriting_pb2.Strategy, Strategy),
    (FINISH_REASONS, rewriting_pb2.FinishReason, FinishReason),
    (STATES, training_pb2.State, RunState),
    (SOURCES, embedding_pb2.TextSource, TokenSpan),
    (POOLINGS, embedding_pb2.ActivationPooling, ActivationPooling),
    (RULES, embedding_pb2.FeatureRule, FeatureRule),
    (OBJECTIVES, embedding_pb2.CoverageObjective, CoverageObjective),
    (OPTIMIZERS, embedding_pb2.CoverageOptimizer, CoverageOptimizer),
    (WEIGHTINGS, embedding_pb2.FeatureWeighting, FeatureWeighting),
    (METRICS, embedding_pb2.NeighborMetric, NeighborMetric),
    (PROJECTIONS, embedding_pb2.ProjectionMethod, ProjectionMethod),
]


@pytest.mark.parametrize(("words", "proto", "enum"), PAIRS, ids=lambda value: getattr(value, "__name__", None))
def test_every_value_goes_both_ways(words, proto, enum) -> None:
    numbers = [number for number in proto.values() if number != 0]
    assert {words.word(number) for number in numbers} == set(enum)
    assert all(words.number(words.word(number)) == number for number in numbers)
    assert all(words.number(str(word)) == words.number(word) for word in enum)


def test_no_enum_of_the_api_is_forgotten() -> None:
    files = (common_pb2, scoring_pb2, embedding_pb2, rewriting_pb2, training_pb2)
    names = {enum.full_name for file in files for enum in file.DESCRIPTOR.enum_types_by_name.values()}
    known = {proto.DESCRIPTOR.full_name for _, proto, _ in PAIRS} | {"burnish.api.rewriting.v1.Rejection"}
    assert names == known


def test_the_words_of_rejections_are_the_protos() -> None:
    assert set(REJECTIONS) == set(rewriting_pb2.Rejection.values())
    assert REJECTIONS[rewriting_pb2.REJECTION_UNSPECIFIED] == ""
    assert REJECTIONS[rewriting_pb2.REJECTION_NO_MARKER] == "no_marker"


def test_unspecified_is_no_word() -> None:
    with pytest.raises(ValueError, match="unknown value 0"):
        ROLES.word(0)


def test_a_value_from_a_newer_server_is_named() -> None:
    with pytest.raises(ValueError, match="State has the unknown value 99; the server may be newer"):
        STATES.word(99)


def test_a_wrong_word_is_a_usage_error_that_lists_the_right_ones() -> None:
    with pytest.raises(UsageError, match="'polish' is no Strategy; expected one of diversify, improve, simplify"):
        STRATEGIES.number("polish")


def test_words_that_differ_from_the_proto_do_not_load() -> None:
    class Fewer(StrEnum):
        USER = "user"

    with pytest.raises(TypeError, match="different words"):
        Words(common_pb2.Role.DESCRIPTOR, Fewer)
    assert enum_words(common_pb2.Role.DESCRIPTOR) == {1: "system", 2: "user", 3: "assistant"}
