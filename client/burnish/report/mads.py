"""Collects what a report says of MADS-style selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from burnish._types import Role
from burnish.coordinator.coverage import selection_notes
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.coverage import Action
from burnish.coordinator.records import DecisionRecord, StepRecord
from burnish.report.arms import arms_of
from burnish.report.common import map_of, measured, said_by, short
from burnish.report.data import Curve, Failure, MadsRound, PickedRow

_SHOWN = 20  # rows of the core set


def mads_round(
    history: RunHistory,
    number: int,
    num_rows: int,
    decisions: Sequence[DecisionRecord],
    steps: Iterable[StepRecord],
) -> MadsRound:
    """The one round from the ledger."""
    steps = list(steps)
    detail = selection_of(steps)
    unread = Counter(d.reasons[0] for d in decisions if d.actions[0] == Action.UNREAD)
    fields = measured(history, number, num_rows, decisions, steps)
    if unread:
        example, _ = unread.most_common(1)[0]
        fields["failures"] = [Failure("features", "UNREAD", sum(unread.values()), short(example))]
    kept = sorted((d for d in decisions if d.actions[0] == Action.KEEP), key=lambda d: d.signals["rank"] or 0.0)
    samples = history.samples(d.sample_hash for d in kept[:_SHOWN])
    curve: Any = detail.get("curve")
    chance: Any = detail.get("random_curves", ())
    features: Any = detail.get("num_features", 0)
    correlation: Any = detail.get("length_correlation")
    hubs: Any = detail.get("hub_share", 0.0)
    return MadsRound(
        **fields,
        actions=Counter(d.actions[0] for d in decisions),
        curve=None if curve is None else Curve(**curve),
        random_curves=[Curve(**one) for one in chance],
        num_features=features,
        length_correlation=correlation,
        hub_share=hubs,
        arms=arms_of(history),
        map=map_of(history, number, ((d.sample_hash, d.actions[0]) for d in decisions), steps),
        picked=[
            PickedRow(
                d.row_id,
                d.reasons,
                said_by(samples[d.sample_hash][:-1], Role.USER),
                samples[d.sample_hash][-1].content,
            )
            for d in kept[:_SHOWN]
        ],
    )


def mads_notes(history: RunHistory) -> list[str]:
    """What a reader should know before believing the numbers."""
    detail: Any = selection_of(history.steps())
    notes = selection_notes(detail["length_correlation"], detail["hub_share"]) if detail else []
    if not history.run.config["settings"]["holdout"]:  # type: ignore[index]
        notes.append("No held-out data were given, so the core set is compared with nothing.")
    return notes


def selection_of(steps: Iterable[StepRecord]) -> dict[str, object]:
    """What the step that selected wrote down; empty before."""
    return next((dict(step.detail) for step in steps if step.name == "select"), {})
