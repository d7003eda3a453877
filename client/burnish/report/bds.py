"""Collects what a report says of bilevel data selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from burnish.coordinator.history import RunHistory
from burnish.report.calibration import auroc
from burnish.report.common import Decided, measured, prompt_and_response
from burnish.report.data import BdsRound, WeighedRow, WeightsAt

_SHOWN = 12  # rows at either end of the ranking


def bds_round(one: Decided) -> BdsRound:
    """The one round from the ledger."""
    history = one.history
    ranked = sorted((d for d in one.decisions if "rank" in d.signals), key=lambda d: d.signals["rank"] or 0.0)
    shown = [*ranked[:_SHOWN], *ranked[-_SHOWN:]] if len(ranked) > 2 * _SHOWN else ranked
    samples = history.samples(d.sample_hash for d in shown)
    actions = Counter(d.actions[0] for d in one.decisions)
    snapshots = [_weights_at(one, step) for step in history.weight_steps(one.number)]
    return BdsRound(
        **measured(one),
        actions=actions,
        snapshots=snapshots,
        weighed=[
            WeighedRow(
                d.row_id,
                d.actions[0],
                d.signals["weight"] or 0.0,
                d.reasons,
                *prompt_and_response(samples[d.sample_hash]),
            )
            for d in shown
        ],
    )


def bds_notes(history: RunHistory, rounds: Sequence[BdsRound]) -> list[str]:
    """What a reader should know before believing the numbers."""
    settings = history.run.config["settings"]
    assert isinstance(settings, dict)
    notes = []
    if settings["weighting"] == "sigmoid" and not settings["auxiliary"]:
        notes.append(
            "Weights are learnt from losses against their running mean, by sparse gradient descent: our derivation, no"
            " part of the published method. SEAL's is the setting weighting = softmax."
        )
    if not settings["holdout"]:
        notes.append("No held-out data were given, so what was selected is compared with nothing.")
    return notes


def _weights_at(one: Decided, step: int) -> WeightsAt:
    weights = one.history.weights(one.number, step)
    told = [(learnt.logit, bool(one.known[row_id].flaw)) for row_id, learnt in weights.items() if row_id in one.known]
    return WeightsAt(
        step,
        [learnt.weight for learnt in weights.values()],
        auroc([value for value, _ in told], [wrong for _, wrong in told]),
    )
