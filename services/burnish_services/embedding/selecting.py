"""Runs a selection as it was asked for, on what the store holds: between `convert_selection.py` and the mathematics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.collection import Collection, FeatureLayout
from burnish_services.embedding.coverage import greedy, spread
from burnish_services.embedding.coverage.curve import CoverageCurve, coverage_curve, random_curves
from burnish_services.embedding.coverage.facility import FacilityLocation
from burnish_services.embedding.coverage.features import FeatureRows, idf_weights
from burnish_services.embedding.coverage.guards import hub_share, length_rank_correlation
from burnish_services.embedding.coverage.increments import CappedCount, DecayingCount, Increment, LogCount
from burnish_services.embedding.coverage.objectives import FeatureCoverage, Objective
from burnish_services.embedding.coverage.pool import Groups, Selection
from burnish_services.embedding.coverage.vectors import UnitVectors
from burnish_services.embedding.coverage.witness import Witnesses, witnesses
from burnish_services.embedding.store import VectorStore

# Candidates beyond which looking at all that may be best takes minutes.
_MANY = 100_000
_MANY_VECTORS = 3_000  # where each look is a pass over all vectors
Check = Callable[[], None]


class ObjectiveKind(StrEnum):
    """What a selection should be good at; see burnish.api.embedding.v1.CoverageObjective."""

    LOG = "log"
    CAPPED = "capped"
    MAX_COVER = "max_cover"
    DECAYING = "decaying"
    FACILITY_LOCATION = "facility_location"
    K_CENTER = "k_center"
    REPRESENTATION_FILTER = "representation_filter"

    @property
    def is_on_features(self) -> bool:
        """Whether it is a sum over features, not over vectors."""
        return self in (ObjectiveKind.LOG, ObjectiveKind.CAPPED, ObjectiveKind.MAX_COVER, ObjectiveKind.DECAYING)

    @property
    def is_greedy(self) -> bool:
        """Whether there is an optimizer to choose."""
        return self not in (ObjectiveKind.K_CENTER, ObjectiveKind.REPRESENTATION_FILTER)


class Optimizer(StrEnum):
    """How many samples are looked at for each pick; see burnish.api.embedding.v1.CoverageOptimizer."""

    NAIVE = "naive"
    LAZY = "lazy"
    STOCHASTIC = "stochastic"
    PARTITION = "partition"


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """How to select; every default resolved but those of `objective` and `optimizer`, which depend on what is there."""

    budget: int
    objective: ObjectiveKind | None = None
    optimizer: Optimizer | None = None
    cap: int = 8
    decay: float = 0.5
    threshold: float = 0.9
    weights_by_rarity: bool = False
    quality_weight: float = 0.0
    epsilon: float = 0.05
    num_partitions: int | None = None  # None: the machine's cores
    seed: int = 0
    with_witnesses: bool = False
    num_random_curves: int = 0

    def objective_for(self, layout: FeatureLayout | None) -> ObjectiveKind:
        """The objective, where the request leaves it open."""
        if self.objective is not None:
            return self.objective
        return ObjectiveKind.FACILITY_LOCATION if layout is None else ObjectiveKind.LOG

    def optimizer_for(self, kind: ObjectiveKind, num_candidates: int) -> Optimizer:
        """The optimizer, where the request leaves it open."""
        if self.optimizer is not None:
            return self.optimizer
        many = _MANY_VECTORS if kind is ObjectiveKind.FACILITY_LOCATION else _MANY
        return Optimizer.LAZY if num_candidates <= many else Optimizer.STOCHASTIC


@dataclass(frozen=True, slots=True)
class Candidates:
    """Who may be selected; `ids` None: all of the collection but those `selected` before."""

    ids: Sequence[str] | None
    quality: Sequence[float] = ()  # as long as `ids`
    groups: Sequence[str] = ()  # as long as `ids`
    selected: Sequence[str] = ()  # before
    group_budgets: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class SelectionRows:
    """The n rows to select from, and those selected before, which stand among them."""

    ids: list[str]  # (n,), ascending
    num_tokens: NDArray[np.int64]  # (n,)
    quality: NDArray[np.float64]  # (n,), in [0, 1]
    groups: Groups
    start: NDArray[np.intp]  # rows selected before
    features: FeatureRows | None = None
    vectors: UnitVectors | None = None

    @property
    def num_candidates(self) -> int:
        """Rows that may be selected."""
        return len(self.ids) - len(self.start)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """What the store holds of them: features as the layout says, or none; vectors, or none."""

    collection: Collection
    ids: list[str]  # ascending
    num_tokens: NDArray[np.int64]
    features: NDArray[np.uint16] | list[NDArray[np.uint32]] | None
    vectors: NDArray[np.float32] | None


def read_stored(store: VectorStore, name: str, candidates: Candidates, settings: SelectionSettings) -> Stored:
    """Reads what the selection needs. Raises NotFound, and PreconditionFailed for ids that are not in the collection
    and for an objective on features that it does not have."""
    collection = store.get(name)
    kind = settings.objective_for(collection.layout)
    before = store.present(name, candidates.selected)
    ids = store.present(name, None if candidates.ids is None else [*candidates.ids, *before])
    features = store.read_features(name, ids) if kind.is_on_features else None
    vectors = store.read(name, ids)[2] if not kind.is_on_features or settings.with_witnesses else None
    num_tokens = np.array([record.num_tokens for record in store.records(name, ids)], np.int64)
    return Stored(collection, ids, num_tokens, features, vectors)


def rows_of(stored: Stored, candidates: Candidates) -> SelectionRows:
    """Lines up what is stored and what was asked for."""
    ids = stored.ids
    row_of = {item: row for row, item in enumerate(ids)}
    start = np.array([row_of[item] for item in dict.fromkeys(candidates.selected)], np.intp)
    quality, of_row = np.zeros(len(ids)), np.zeros(len(ids), np.intp)
    # Group 0 is of all whose group has no budget of its own.
    number_of = {group: number for number, group in enumerate(candidates.group_budgets, start=1)}
    if candidates.ids is not None:
        rows = np.array([row_of[item] for item in candidates.ids], np.intp)
        quality[rows] = candidates.quality
        of_row[rows] = [number_of.get(group, 0) for group in candidates.groups]
    budgets = np.array([len(ids), *candidates.group_budgets.values()], np.intp)
    features = None if stored.features is None else _feature_rows(stored.features, stored.collection.layout)
    vectors = None if stored.vectors is None else UnitVectors(stored.vectors)
    return SelectionRows(ids, stored.num_tokens, quality, Groups(of_row, budgets), start, features, vectors)


def _feature_rows(stored: NDArray[np.uint16] | list[NDArray[np.uint32]], layout: FeatureLayout | None) -> FeatureRows:
    assert layout is not None
    if isinstance(stored, np.ndarray):
        return FeatureRows.packed(stored, num_layers=layout.num_layers, width=layout.width)
    indptr = np.concatenate([[0], np.cumsum([len(ids) for ids in stored])]).astype(np.int64)
    return FeatureRows.ragged(np.concatenate(stored, dtype=np.uint32), indptr, layout.num_features)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A selection and what is told of it; see burnish.api.embedding.v1.SelectCoverageResponse."""

    selection: Selection
    optimizer: Optimizer | None
    witnesses: Witnesses | None
    curve: CoverageCurve | None
    random_curves: list[CoverageCurve]
    num_features: int
    hub_share: float
    length_correlation: float | None


def select(settings: SelectionSettings, kind: ObjectiveKind, rows: SelectionRows, check: Check) -> Outcome:
    """Selects, and looks at what came of it. `rows` have features or vectors as `kind` and witnesses need them. `check`
    is called every so often, and may raise to give up. Raises ValueError where the mathematics refuses its input."""
    optimizer = settings.optimizer_for(kind, rows.num_candidates) if kind.is_greedy else None
    curve, chance, frequencies = None, list[CoverageCurve](), np.empty(0, np.intp)
    if kind.is_on_features:
        assert rows.features is not None
        frequencies = rows.features.frequencies()
        fresh = _coverage(settings, kind, rows, rows.features, frequencies)
        selection = _maximise(settings, optimizer, fresh.copy(), rows, check)
        for row in rows.start.tolist():
            fresh.add(row)
        curve = coverage_curve(fresh, selection.rows, check=check)
        if settings.num_random_curves:
            chance = random_curves(
                fresh,
                len(selection.rows),
                num_orders=settings.num_random_curves,
                seed=settings.seed,
                groups=rows.groups if len(rows.groups.budgets) > 1 else None,
                check=check,
            )
    else:
        assert rows.vectors is not None
        selection = _on_vectors(settings, kind, optimizer, rows, rows.vectors, check)
    kept = np.concatenate([selection.rows, rows.start])
    standing = None
    if settings.with_witnesses and len(kept):  # where groups have no room, nobody stands for anybody
        assert rows.vectors is not None
        standing = witnesses(rows.vectors, kept, check=check)
    return Outcome(
        selection,
        optimizer,
        standing,
        curve,
        chance,
        int(np.count_nonzero(frequencies)),
        hub_share(frequencies),
        length_rank_correlation(rows.num_tokens, selection.rows),
    )


def _coverage(
    settings: SelectionSettings,
    kind: ObjectiveKind,
    rows: SelectionRows,
    features: FeatureRows,
    frequencies: NDArray[np.intp],
) -> FeatureCoverage:
    increments: dict[ObjectiveKind, Increment] = {
        ObjectiveKind.LOG: LogCount(),
        ObjectiveKind.CAPPED: CappedCount(settings.cap),
        ObjectiveKind.MAX_COVER: CappedCount(1),
        ObjectiveKind.DECAYING: DecayingCount(settings.decay),
    }
    return FeatureCoverage(
        features,
        increment=increments[kind],
        weights=idf_weights(frequencies, features.num_rows) if settings.weights_by_rarity else None,
        quality=rows.quality,
        quality_weight=settings.quality_weight,
    )


def _on_vectors(
    settings: SelectionSettings,
    kind: ObjectiveKind,
    optimizer: Optimizer | None,
    rows: SelectionRows,
    vectors: UnitVectors,
    check: Check,
) -> Selection:
    budget, start, groups = settings.budget, rows.start, rows.groups
    if kind is ObjectiveKind.K_CENTER:
        return spread.k_center(vectors, budget, start=start, groups=groups, check=check)
    if kind is ObjectiveKind.REPRESENTATION_FILTER:
        return spread.repr_filter(
            vectors, rows.quality, budget, most=settings.threshold, start=start, groups=groups, check=check
        )
    objective = FacilityLocation(vectors, quality=rows.quality, quality_weight=settings.quality_weight)
    return _maximise(settings, optimizer, objective, rows, check)


def _maximise(
    settings: SelectionSettings, optimizer: Optimizer | None, objective: Objective, rows: SelectionRows, check: Check
) -> Selection:
    budget, start, groups, seed = settings.budget, rows.start, rows.groups, settings.seed
    match optimizer:
        case Optimizer.NAIVE:
            return greedy.naive(objective, budget, start=start, groups=groups, check=check)
        case Optimizer.STOCHASTIC:
            return greedy.stochastic(
                objective, budget, epsilon=settings.epsilon, seed=seed, start=start, groups=groups, check=check
            )
        case Optimizer.PARTITION:
            shards = settings.num_partitions or os.cpu_count() or 1
            return greedy.partition(
                objective, budget, shards=shards, seed=seed, start=start, groups=groups, check=check
            )
        case _:
            return greedy.lazy(objective, budget, start=start, groups=groups, check=check)
