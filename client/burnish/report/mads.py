"""Collects what a report says of MADS-style selection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from burnish.coordinator.coverage import selection_notes
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.verdict import Action
from burnish.coordinator.records import FailureRecord, StepRecord
from burnish.report.common import Decided, map_of, measured, prompt_and_response, short
from burnish.report.data import Curve, MadsRound, ShownRow
from burnish.report.map import Key, Legend

_SHOWN = 20  # rows of the core set
LEGEND = Legend(
    (Key("drop", "mist", "left out"), Key("keep", "teal", "in the core set")),
    "A point is a row, by the selector's mean hidden state over the conversation.",
)


def mads_round(one: Decided) -> MadsRound:
    """The one round from the ledger."""
    history, decisions = one.history, one.decisions
    detail = selection_of(one.steps)
    unread = Counter(d.reasons[0] for d in decisions if d.actions[0] == Action.UNREAD)
    fields = measured(one)
    if unread:
        example, _ = unread.most_common(1)[0]
        fields["failures"] = [FailureRecord(one.number, "features", "UNREAD", sum(unread.values()), short(example))]
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
        random_curves=[Curve(**each) for each in chance],
        num_features=features,
        length_correlation=correlation,
        hub_share=hubs,
        map=map_of(one, ((d.sample_hash, d.actions[0]) for d in decisions)),
        picked=[ShownRow(d.row_id, d.reasons, *prompt_and_response(samples[d.sample_hash])) for d in kept[:_SHOWN]],
    )


def mads_notes(history: RunHistory, rounds: Sequence[MadsRound]) -> list[str]:
    """What a reader should know before believing the numbers."""
    detail: Any = selection_of(history.steps())
    notes = selection_notes(detail["length_correlation"], detail["hub_share"]) if detail else []
    if not history.run.config["settings"]["holdout"]:
        notes.append("No held-out data were given, so the core set is compared with nothing.")
    return notes


def selection_of(steps: Iterable[StepRecord]) -> dict[str, object]:
    """What the step that selected wrote down; empty before."""
    return next((dict(step.detail) for step in steps if step.name == "select"), {})
