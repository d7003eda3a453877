"""Collects what a report says of filtering by a signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.verdict import STAYS, Action, Unscored
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.registry import settings_in
from burnish.coordinator.records import StepRecord
from burnish.report.common import Decided, map_of, measured, prompt_and_response
from burnish.report.data import FilterRound, ShownRow, TriedShare
from burnish.report.map import Key, Legend

_SHOWN = 60  # dropped rows; all are in final/dropped.jsonl
LEGEND = Legend(
    (
        Key("keep", "mist", "kept"),
        Key("unscored", "violet", "kept without a value"),
        Key("left_out", "amber", "left out to hold the set's size"),
    ),
    "A point is a row that was kept, by the base model's mean hidden state over the conversation. What the filter"
    " dropped is not read for this, and not shown.",
)


def filter_round(one: Decided) -> FilterRound:
    """The one round from the ledger."""
    history = one.history
    tried = _tried(one.steps)
    actions = Counter(d.actions[0] for d in one.decisions)
    gone = [d for d in one.decisions if d.actions[0] == Action.DROP]
    shown = sorted(gone, key=lambda d: -(d.signals.get("rank") or 0.0))[:_SHOWN]
    samples = history.samples(d.sample_hash for d in shown)
    return FilterRound(
        **measured(one),
        actions=actions,
        left_out=sum(not held.kept for held in history.held(one.number)),
        tried=tried,
        dropped=[ShownRow(d.row_id, d.reasons, *prompt_and_response(samples[d.sample_hash])) for d in shown],
        weighted=_weighted(settings_in(history.run, FilterSettings), tried),
        map=map_of(one, _going_on(one)),
    )


def filter_notes(history: RunHistory, rounds: Sequence[FilterRound]) -> list[str]:
    """What a reader should know before believing the numbers."""
    settings = settings_in(history.run, FilterSettings)
    notes = []
    for line in (line for one in rounds for line in one.thresholds if line.num_excluded):
        all_rows = line.num_values + line.num_excluded
        kept = "They were kept." if settings.unscored is Unscored.KEEP else "They were dropped."
        notes.append(f"{line.num_excluded} of {all_rows} rows have no {line.signal} and could not be ranked. {kept}")
    tried = [share.signal for one in rounds for share in one.tried]
    if tried and settings.covers() and not any(share.held for one in rounds for share in one.tried):
        notes.append(
            "What covers the largest share was to be tried as well, and was not: the model's neurons could not"
            " be read, or there was nothing to leave out."
        )
    if tried and settings.rival is not None and settings.rival not in tried:
        notes.append(
            f"Signal {settings.rival} was to be tried as well, and was not: too few rows have it (of calibrated, too"
            " few trusted rows could be scored)."
        )
    if settings.outliers is not None:
        least = settings.signal.least_apart
        at_least = f", and at least {least:.1f}," if least else ""
        notes.append(
            f"The line is {settings.outliers:g} robust deviations{at_least} below the median (docs/filter.md): what"
            " stands out is left out, and no share."
        )
    if any(one.weighted for one in rounds):
        notes.append(
            "What was kept counts by its rank while it is trained on: our derivation, no published method's. The models"
            " that it is compared with count all rows alike, and the final data have no weights."
        )
    if not settings.holdout:
        notes.append("No held-out data were given, so what was kept is compared with nothing.")
    return notes


def _tried(steps: Sequence[StepRecord]) -> list[TriedShare]:
    """What came of each share, all rows first; nothing where none were to be tried, or it is not known yet."""
    detail: dict[str, Any] = next((dict(one.detail) for one in steps if one.name == "choose"), {})
    best = tuple(detail.get(name) for name in ("signal", "share", "held"))
    found = detail.get("tried", [])
    return [TriedShare(**one, taken=(one["signal"], one["share"], one["held"]) == best) for one in found]


def _weighted(settings: FilterSettings, tried: Sequence[TriedShare]) -> bool:
    """Whether what was kept counts by its rank: what covers always does, and all rows, where no share is better, never
    do."""
    taken = next((one for one in tried if one.taken), None)
    if taken is None:
        return settings.weighted and not settings.tried()
    return taken.held is not None or (settings.weighted and taken.share < 1.0)


def _going_on(one: Decided) -> Iterator[tuple[str, str]]:
    """The rows that were kept, which alone have vectors: the sample of each, and what became of it."""
    left_out = {held.row_id for held in one.history.held(one.number) if not held.kept}
    for d in one.decisions:
        if d.actions[0] in STAYS:
            yield d.sample_hash, "left_out" if d.row_id in left_out else d.actions[0]
