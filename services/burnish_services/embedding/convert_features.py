"""Between burnish.api.embedding.v1 and the settings of features and calibrations."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish_services.embedding.calibrations import Calibration
from burnish_services.embedding.fields import Words, in_range
from burnish_services.embedding.settings import ActivationSettings, FeatureSettings, Rule, Source
from burnish_services.engine.base import ActivationPooling
from burnish_services.runtime.errors import InvalidRequest, PreconditionFailed

SOURCES = Words("source", pb.TextSource.DESCRIPTOR, Source)
_POOLINGS = Words("pooling", pb.ActivationPooling.DESCRIPTOR, ActivationPooling)
_RULES = Words("rule", pb.FeatureRule.DESCRIPTOR, Rule)
_DEFAULT_TOKENS, _FEWEST_TOKENS, _MOST_TOKENS = 1024, 16, 1 << 20
_MOST_K = 1024
_DEFAULT_SECTIONS, _MOST_SECTIONS = 10, 64
_MOST_BOUNDARIES = 15


def source(number: int) -> Source:
    """What a collection's vectors are means over. Raises InvalidRequest."""
    return SOURCES.word(number, Source.USER)


def activation_settings(given: pb.ActivationSettings) -> ActivationSettings:
    """The settings, defaults filled in. Raises InvalidRequest."""
    if given.max_tokens and not _FEWEST_TOKENS <= given.max_tokens <= _MOST_TOKENS:
        raise InvalidRequest(
            "BAD_MAX_TOKENS",
            f"max_tokens is {given.max_tokens}; expected {_FEWEST_TOKENS} to {_MOST_TOKENS}, or 0 for "
            f"{_DEFAULT_TOKENS}",
            field="max_tokens",
        )
    return ActivationSettings(
        SOURCES.word(given.source, Source.RESPONSE),
        _POOLINGS.word(given.pooling, ActivationPooling.MAX),
        given.max_tokens or _DEFAULT_TOKENS,
    )


def feature_settings(given: pb.FeatureSettings, calibration: Calibration | None) -> FeatureSettings:
    """The settings, defaults filled in and checked against the calibration that they name, if any. Raises
    InvalidRequest, and PreconditionFailed where that is not finished."""
    rule = _RULES.word(given.rule, Rule.STANDARDIZED_TOP_K)
    k = in_range("k", given.k, 0, _MOST_K)
    if not 0 <= given.threshold < 1:
        raise InvalidRequest(
            "BAD_THRESHOLD", f"threshold is {given.threshold}; expected it in [0, 1)", field="threshold"
        )
    num_sections = 0
    if rule is Rule.SECTIONS:
        num_sections = in_range("num_sections", given.num_sections, _DEFAULT_SECTIONS, _MOST_SECTIONS, least=2)
    activations = _activations(given.activations, rule)
    threshold = given.threshold if rule is Rule.MIN_MAX else 0.0
    k = k if rule.is_packed else 0
    if rule.is_calibrated != (calibration is not None):
        named = repr(calibration.name) if calibration is not None else "empty"
        wanted = "the name of one that is finished" if rule.is_calibrated else "none"
        raise InvalidRequest(
            "BAD_CALIBRATION",
            f"features.calibration is {named}; expected {wanted}, since rule is {rule.value}",
            field="features.calibration",
        )
    if calibration is None:
        return FeatureSettings(activations, rule, k, threshold, num_sections)
    if given.HasField("activations") and activations != calibration.activations:
        raise InvalidRequest(
            "BAD_ACTIVATIONS",
            f"activations are {activations}; expected none, or those of calibration {calibration.name!r}, which are "
            f"{calibration.activations}",
            field="activations",
        )
    if not calibration.version:
        raise PreconditionFailed(
            "CALIBRATION_NOT_FINISHED",
            f"calibration {calibration.name!r} is not finished; measure samples, and call FinishCalibration",
        )
    return FeatureSettings(
        calibration.activations, rule, k, threshold, num_sections, calibration.name, calibration.version
    )


def _activations(given: pb.ActivationSettings, rule: Rule) -> ActivationSettings:
    settings = activation_settings(given)
    if rule is not Rule.ABOVE_ZERO or settings.pooling is ActivationPooling.MAX_SIGNED:
        return settings
    if given.pooling:
        raise InvalidRequest(
            "BAD_POOLING",
            f"activations.pooling is {settings.pooling.value}, a magnitude, which is above zero for practically every "
            f"neuron; expected {ActivationPooling.MAX_SIGNED.value}, or none, since rule is {rule.value}",
            field="activations.pooling",
        )
    return replace(settings, pooling=ActivationPooling.MAX_SIGNED)


def length_boundaries(given: pb.Calibration) -> tuple[int, ...]:
    """Where lengths are told apart. Raises InvalidRequest."""
    boundaries = tuple(given.length_boundaries)
    ascending = all(low < high for low, high in pairwise((0, *boundaries)))
    if len(boundaries) > _MOST_BOUNDARIES or not ascending:
        raise InvalidRequest(
            "BAD_LENGTH_BOUNDARIES",
            f"length_boundaries are {list(boundaries)}; expected at most {_MOST_BOUNDARIES} numbers of tokens, above 0 "
            "and strictly ascending",
            field="length_boundaries",
        )
    return boundaries


def features_message(settings: FeatureSettings) -> pb.FeatureSettings:
    """The settings as a reply states them."""
    return pb.FeatureSettings(
        activations=activations_message(settings.activations),
        rule=_RULES.number(settings.rule),
        k=settings.k,
        threshold=settings.threshold,
        num_sections=settings.num_sections,
        calibration=settings.calibration,
        calibration_version=settings.calibration_version,
    )


def activations_message(settings: ActivationSettings) -> pb.ActivationSettings:
    """The settings as a reply states them."""
    return pb.ActivationSettings(
        source=SOURCES.number(settings.source),
        pooling=_POOLINGS.number(settings.pooling),
        max_tokens=settings.max_tokens,
    )
