"""What `client.embedding` takes and gives for features, calibrations and selections.

Names and meanings are those of protos/burnish/api/embedding. None takes the service's default, which is stated there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from burnish._types import ItemStatus, ModelVersion, Timing, TokenSpan


class ActivationPooling(StrEnum):
    """How a neuron's activations at several tokens become one number."""

    MAX = "max"
    MEAN = "mean"
    MAX_SIGNED = "max_signed"


class FeatureRule(StrEnum):
    """When a neuron counts as active on a sample."""

    STANDARDIZED_TOP_K = "standardized_top_k"
    TOP_K = "top_k"
    ABOVE_ZERO = "above_zero"
    MIN_MAX = "min_max"
    SECTIONS = "sections"


class CoverageObjective(StrEnum):
    """What a selection should be good at."""

    LOG = "log"
    CAPPED = "capped"
    MAX_COVER = "max_cover"
    DECAYING = "decaying"
    FACILITY_LOCATION = "facility_location"
    K_CENTER = "k_center"
    REPRESENTATION_FILTER = "representation_filter"


class CoverageOptimizer(StrEnum):
    """How an objective is maximised."""

    NAIVE = "naive"
    LAZY = "lazy"
    STOCHASTIC = "stochastic"
    PARTITION = "partition"


class FeatureWeighting(StrEnum):
    """How much a feature counts."""

    UNIFORM = "uniform"
    IDF = "idf"


class ProjectionMethod(StrEnum):
    """How vectors become points of a plane."""

    PCA = "pca"
    UMAP = "umap"


@dataclass(frozen=True, slots=True)
class ActivationSettings:
    """Which activations of its neurons a sample has."""

    source: TokenSpan | None = None
    pooling: ActivationPooling | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Which features a collection's samples have. `activations` are the calibration's where there is one."""

    rule: FeatureRule | None = None
    calibration: str = ""
    activations: ActivationSettings | None = None
    k: int | None = None
    threshold: float | None = None
    num_sections: int | None = None
    calibration_version: str = ""  # output only


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is usual for a model's neurons; `version` is empty until it is finished."""

    name: str
    activations: ActivationSettings
    length_boundaries: tuple[int, ...]
    model: ModelVersion | None
    num_samples: int
    num_layers: int
    num_neurons: int
    version: str
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class SampleMeasurement:
    """What became of one sample; `num_tokens` is 0 where it had been measured before, None where it failed."""

    sample_id: str
    status: ItemStatus
    num_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class MeasureBatch:
    """Reply of `embedding.measure`."""

    model: ModelVersion
    measurements: tuple[SampleMeasurement, ...]
    timing: Timing


@dataclass(frozen=True, slots=True)
class CoverageCandidate:
    """One sample that may be selected; `quality` in [0, 1]."""

    sample_id: str
    quality: float = 0.0
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageSettings:
    """How to select; see SelectCoverageRequest."""

    objective: CoverageObjective | None = None
    optimizer: CoverageOptimizer | None = None
    cap: int | None = None
    decay: float | None = None
    threshold: float | None = None
    weighting: FeatureWeighting | None = None
    quality_weight: float = 0.0
    epsilon: float | None = None
    num_partitions: int | None = None
    seed: int = 0
    group_budgets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SelectedSample:
    """One sample that was selected, and what it added to the objective when it was picked."""

    sample_id: str
    gain: float


@dataclass(frozen=True, slots=True)
class Witness:
    """Who stands for a sample that was not selected: the selected one nearest to it, and their cosine."""

    sample_id: str
    nearest_id: str
    cosine: float


@dataclass(frozen=True, slots=True)
class CoverageCurve:
    """What the beginnings of an order cover; all of the same length."""

    num_selected: tuple[int, ...]
    value: tuple[float, ...]
    num_features: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """Reply of `embedding.project`: where samples lie, `points` float32 of shape (ids, 2), and the shares of the
    variance that the two axes show, which are 0 by UMAP."""

    model: ModelVersion | None
    sample_ids: tuple[str, ...]
    points: NDArray[np.float32]
    variance_shares: tuple[float, float]
    method: ProjectionMethod = ProjectionMethod.PCA


@dataclass(frozen=True, slots=True)
class CoverageSelection:
    """Reply of `embedding.select`. `curve` is None for objectives on vectors, `length_correlation` where it is not
    defined."""

    model: ModelVersion | None
    selected: tuple[SelectedSample, ...]
    witnesses: tuple[Witness, ...]
    curve: CoverageCurve | None
    random_curves: tuple[CoverageCurve, ...]
    num_candidates: int
    num_features: int
    length_correlation: float | None
    hub_share: float
    optimizer: CoverageOptimizer | None
