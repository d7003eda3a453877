"""Between burnish.api.embedding.v1 and selections."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish_services.embedding import convert
from burnish_services.embedding.collection import Collection
from burnish_services.embedding.coverage.curve import CoverageCurve
from burnish_services.embedding.fields import Words, in_range, share
from burnish_services.embedding.selecting import (
    Candidates,
    ObjectiveKind,
    Optimizer,
    Outcome,
    SelectionRows,
    SelectionSettings,
)
from burnish_services.runtime.errors import InvalidRequest

_OBJECTIVES = Words("objective", pb.CoverageObjective.DESCRIPTOR, ObjectiveKind)
_OPTIMIZERS = Words("optimizer", pb.CoverageOptimizer.DESCRIPTOR, Optimizer)
_DEFAULT_CAP, _MOST_CAP = 8, 1 << 30
_FIELD_BYTES = 24  # at most, of an entry besides its ids: tags, lengths and a double
_MOST_PARTITIONS, _MOST_CURVES = 1024, 20


def selection_settings(request: pb.SelectCoverageRequest) -> SelectionSettings:
    """The settings, defaults filled in. Raises InvalidRequest."""
    if request.budget < 1:
        raise InvalidRequest("BAD_BUDGET", f"budget is {request.budget}; expected at least 1", field="budget")
    if request.weighting not in pb.FeatureWeighting.values():
        raise InvalidRequest(
            "BAD_WEIGHTING", f"weighting is {request.weighting}; expected one of the enum's values", field="weighting"
        )
    if not 0 <= request.quality_weight < float("inf"):
        raise InvalidRequest(
            "BAD_QUALITY_WEIGHT",
            f"quality_weight is {request.quality_weight}; expected at least 0",
            field="quality_weight",
        )
    if not 0 <= request.num_random_curves <= _MOST_CURVES:
        raise InvalidRequest(
            "BAD_NUM_RANDOM_CURVES",
            f"num_random_curves is {request.num_random_curves}; expected 0 to {_MOST_CURVES}",
            field="num_random_curves",
        )
    objective = _OBJECTIVES.optional(request.objective)
    optimizer = _OPTIMIZERS.optional(request.optimizer)
    if optimizer is not None and objective is not None and not objective.is_greedy:
        raise InvalidRequest(
            "BAD_OPTIMIZER",
            f"optimizer is {optimizer.value}; expected none, since objective {objective.value} takes none",
            field="optimizer",
        )
    partitions = in_range("num_partitions", request.num_partitions, 0, _MOST_PARTITIONS)
    return SelectionSettings(
        budget=request.budget,
        objective=objective,
        optimizer=optimizer,
        cap=in_range("cap", request.cap, _DEFAULT_CAP, _MOST_CAP),
        decay=share("decay", request.decay, 0.5),
        threshold=share("threshold", request.threshold, 0.9, upto=True),
        weights_by_rarity=request.weighting == pb.FEATURE_WEIGHTING_IDF,
        quality_weight=request.quality_weight,
        epsilon=share("epsilon", request.epsilon, 0.05),
        num_partitions=partitions or None,
        seed=request.seed,
        with_witnesses=request.return_witnesses,
        num_random_curves=request.num_random_curves,
    )


def candidates(request: pb.SelectCoverageRequest) -> Candidates:
    """Who may be selected. Raises InvalidRequest."""
    ids = [candidate.sample_id for candidate in request.candidates]
    if len(set(ids)) != len(ids):
        raise InvalidRequest(
            "DUPLICATE_ID", "a sample_id stands more than once in candidates; expected each once", field="candidates"
        )
    bad = next((one for one in request.candidates if not 0 <= one.quality <= 1), None)
    if bad is not None:
        raise InvalidRequest(
            "BAD_QUALITY",
            f"quality of {bad.sample_id!r} is {bad.quality}; expected it in [0, 1]: a percentile",
            field="candidates",
        )
    negative = {group: budget for group, budget in request.group_budgets.items() if budget < 0}
    if negative:
        raise InvalidRequest(
            "BAD_GROUP_BUDGETS",
            f"group_budgets has {negative}; expected 0 or more for each group",
            field="group_budgets",
        )
    selected = list(dict.fromkeys(request.selected_ids))
    before = set(selected)
    left = [candidate for candidate in request.candidates if candidate.sample_id not in before]
    return Candidates(
        [candidate.sample_id for candidate in left] if ids else None,
        [candidate.quality for candidate in left],
        [candidate.group for candidate in left],
        selected,
        dict(request.group_budgets),
    )


def check_reply_fits(ids: Sequence[str], num_before: int, settings: SelectionSettings, max_bytes: int) -> None:
    """Raises InvalidRequest where the reply might not fit a message, before anything is computed: for a selection from
    `ids`, of which `num_before` were selected before."""
    longest = max((len(item.encode()) for item in ids), default=0)
    picked = min(settings.budget, len(ids) - num_before)
    left = len(ids) - num_before - picked if settings.with_witnesses else 0
    if picked * (longest + _FIELD_BYTES) + left * (2 * longest + _FIELD_BYTES) > max_bytes:
        raise InvalidRequest(
            "REPLY_TOO_LARGE",
            f"{picked} samples and {left} witnesses, with ids of up to {longest} bytes, may take more than the "
            f"{max_bytes >> 20} MiB that fit a message; expected a smaller budget (selected_ids goes on from there), "
            "leave return_witnesses out, or raise BURNISH_SERVER_MAX_MESSAGE_BYTES and the client's max_message_bytes",
        )


def select_reply(collection: Collection, rows: SelectionRows, outcome: Outcome) -> pb.SelectCoverageResponse:
    """The reply."""
    ids, picked = rows.ids, outcome.selection
    found = outcome.witnesses
    standing = (
        [] if found is None else zip(found.dropped.tolist(), found.kept.tolist(), found.cosines.tolist(), strict=True)
    )
    return pb.SelectCoverageResponse(
        model=None if collection.weights is None else convert.weights_message(collection.weights),
        selected=[
            pb.SelectedSample(sample_id=ids[row], gain=gain)
            for row, gain in zip(picked.rows.tolist(), picked.gains.tolist(), strict=True)
        ],
        witnesses=[
            pb.Witness(sample_id=ids[row], nearest_id=ids[nearest], cosine=cosine) for row, nearest, cosine in standing
        ],
        curve=None if outcome.curve is None else _curve_message(outcome.curve),
        random_curves=[_curve_message(curve) for curve in outcome.random_curves],
        statistics=pb.CoverageStatistics(
            num_candidates=rows.num_candidates,
            num_features=outcome.num_features,
            length_correlation=outcome.length_correlation,
            hub_share=outcome.hub_share,
        ),
        optimizer=_OPTIMIZERS.number(outcome.optimizer) if outcome.optimizer else pb.COVERAGE_OPTIMIZER_UNSPECIFIED,
    )


def _curve_message(curve: CoverageCurve) -> pb.CoverageCurve:
    return pb.CoverageCurve(
        num_selected=curve.sizes.tolist(), value=curve.values.tolist(), num_features=curve.covered.tolist()
    )
