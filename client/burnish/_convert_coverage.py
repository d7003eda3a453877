"""Between the SDK's dataclasses of features, calibrations and selections and burnish.api.embedding.v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burnish import _coverage_types as t
from burnish._convert import floats, optional_float, optional_time, optional_version, status_from_proto
from burnish._types import NeighborMetric, TokenSpan
from burnish._words import Words
from burnish.api.embedding.v1 import embedding_pb2 as pb

SOURCES = Words(pb.TextSource.DESCRIPTOR, TokenSpan)
POOLINGS = Words(pb.ActivationPooling.DESCRIPTOR, t.ActivationPooling)
RULES = Words(pb.FeatureRule.DESCRIPTOR, t.FeatureRule)
OBJECTIVES = Words(pb.CoverageObjective.DESCRIPTOR, t.CoverageObjective)
OPTIMIZERS = Words(pb.CoverageOptimizer.DESCRIPTOR, t.CoverageOptimizer)
METRICS = Words(pb.NeighborMetric.DESCRIPTOR, NeighborMetric)
WEIGHTINGS = Words(pb.FeatureWeighting.DESCRIPTOR, t.FeatureWeighting)
PROJECTIONS = Words(pb.ProjectionMethod.DESCRIPTOR, t.ProjectionMethod)


def activations_to_proto(settings: t.ActivationSettings) -> pb.ActivationSettings:
    """What was not given stays unset."""
    return pb.ActivationSettings(
        **_given(
            source=settings.source and SOURCES.number(settings.source),
            pooling=settings.pooling and POOLINGS.number(settings.pooling),
            max_tokens=settings.max_tokens,
        )
    )


def features_to_proto(settings: t.FeatureSettings) -> pb.FeatureSettings:
    """What was not given stays unset."""
    return pb.FeatureSettings(
        **_given(
            activations=settings.activations and activations_to_proto(settings.activations),
            rule=settings.rule and RULES.number(settings.rule),
            k=settings.k,
            threshold=settings.threshold,
            num_sections=settings.num_sections,
            calibration=settings.calibration,
        )
    )


def features_from_proto(settings: pb.FeatureSettings) -> t.FeatureSettings:
    """As the service has resolved them; what does not apply to the rule is None."""
    return t.FeatureSettings(
        RULES.word(settings.rule),
        settings.calibration,
        _activations(settings.activations),
        settings.k or None,
        settings.threshold or None,
        settings.num_sections or None,
        settings.calibration_version,
    )


def calibration_from_proto(calibration: pb.Calibration) -> t.Calibration:
    """A calibration; `model` is None while nothing is measured."""
    return t.Calibration(
        name=calibration.name,
        activations=_activations(calibration.activations),
        length_boundaries=tuple(calibration.length_boundaries),
        model=optional_version(calibration),
        num_samples=calibration.num_samples,
        num_layers=calibration.num_layers,
        num_neurons=calibration.num_neurons,
        version=calibration.version,
        create_time=optional_time(calibration, "create_time"),
    )


def measurement_from_proto(measurement: pb.SampleMeasurement) -> t.SampleMeasurement:
    """What became of one sample."""
    status = status_from_proto(measurement.status)
    return t.SampleMeasurement(measurement.sample_id, status, measurement.num_tokens if status.ok else None)


def select_to_proto(
    collection: str,
    budget: int,
    candidates: Sequence[t.CoverageCandidate],
    settings: t.CoverageSettings,
    selected_ids: Sequence[str],
    *,
    return_witnesses: bool,
    num_random_curves: int,
) -> pb.SelectCoverageRequest:
    """The request. Raises ValueError and TypeError for numbers that have no place in it."""
    return pb.SelectCoverageRequest(
        collection=collection,
        candidates=[
            pb.CoverageCandidate(sample_id=one.sample_id, quality=one.quality, group=one.group) for one in candidates
        ],
        budget=budget,
        quality_weight=settings.quality_weight,
        selected_ids=selected_ids,
        group_budgets=settings.group_budgets,
        seed=settings.seed,
        return_witnesses=return_witnesses,
        num_random_curves=num_random_curves,
        **_given(
            objective=settings.objective and OBJECTIVES.number(settings.objective),
            optimizer=settings.optimizer and OPTIMIZERS.number(settings.optimizer),
            weighting=settings.weighting and WEIGHTINGS.number(settings.weighting),
            cap=settings.cap,
            decay=settings.decay,
            threshold=settings.threshold,
            epsilon=settings.epsilon,
            num_partitions=settings.num_partitions,
        ),
    )


def selection_from_proto(reply: pb.SelectCoverageResponse) -> t.CoverageSelection:
    """A selection."""
    statistics = reply.statistics
    return t.CoverageSelection(
        model=optional_version(reply),
        selected=tuple(t.SelectedSample(one.sample_id, one.gain) for one in reply.selected),
        witnesses=tuple(t.Witness(one.sample_id, one.nearest_id, one.cosine) for one in reply.witnesses),
        curve=_curve(reply.curve) if reply.HasField("curve") else None,
        random_curves=tuple(map(_curve, reply.random_curves)),
        num_candidates=statistics.num_candidates,
        num_features=statistics.num_features,
        length_correlation=optional_float(statistics, "length_correlation"),
        hub_share=statistics.hub_share,
        optimizer=OPTIMIZERS.word(reply.optimizer) if reply.optimizer else None,
    )


def projection_to_proto(
    collection: str, sample_ids: Sequence[str], method: t.ProjectionMethod
) -> pb.ProjectSamplesRequest:
    """The request. Raises UsageError for a method that does not exist."""
    return pb.ProjectSamplesRequest(collection=collection, sample_ids=sample_ids, method=PROJECTIONS.number(method))


def projection_from_proto(reply: pb.ProjectSamplesResponse) -> t.Projection:
    """A picture. Raises ValueError where it has not two numbers for every id."""
    x, y = reply.variance_shares
    numbers = floats(reply.points)
    points = np.empty((0, 2), np.float32) if numbers is None else numbers.reshape(len(reply.sample_ids), 2)
    method = PROJECTIONS.word(reply.method or pb.PROJECTION_METHOD_PCA)  # what "unspecified" means
    return t.Projection(optional_version(reply), tuple(reply.sample_ids), points, (x, y), method)


def _activations(settings: pb.ActivationSettings) -> t.ActivationSettings:
    return t.ActivationSettings(SOURCES.word(settings.source), POOLINGS.word(settings.pooling), settings.max_tokens)


def _curve(curve: pb.CoverageCurve) -> t.CoverageCurve:
    return t.CoverageCurve(tuple(curve.num_selected), tuple(curve.value), tuple(curve.num_features))


def _given(**values: Any) -> Mapping[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != ""}
