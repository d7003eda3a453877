"""Collects what a report says of CLEAR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.clear import place_notes
from burnish.coordinator.policy.confidence import Evidence
from burnish.coordinator.policy.filtering import AXIS
from burnish.coordinator.policy.verdict import Action
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.registry import settings_in
from burnish.coordinator.steps.curate import evidence_notes
from burnish.report.calibration import calibrate
from burnish.report.common import Decided, map_of, measured, prompt_and_response
from burnish.report.data import ClearRound, Correction, ShownRow
from burnish.report.map import Key, Legend

LEGEND = Legend(
    (
        Key("keep", "mist", "kept"),
        Key("unscored", "violet", "kept without a confidence"),
        Key("correct", "teal", "corrected"),
        Key("left_out", "amber", "left out to hold the set's size"),
    ),
    "A point is a row as it would go on, by the base model's mean hidden state over the conversation. What the"
    " filter dropped is not read for this, and not shown.",
)


def clear_round(one: Decided) -> ClearRound:
    """One round from the ledger."""
    history, decisions = one.history, one.decisions
    judged = [each.preference for each in history.candidates(one.number) if each.preference is not None]
    samples = {row.row_id: messages for row, messages in history.conversations(one.number)}
    after = history.samples(d.hints[0] for d in decisions if d.actions[0] == Action.CORRECT)
    corrected = {d.row_id: after[d.hints[0]] for d in decisions if d.actions[0] == Action.CORRECT}
    signal = history.thresholds(one.number)[0].signal
    return ClearRound(
        **measured(one),
        actions=Counter(d.actions[0] for d in decisions),
        failed=sum(AXIS in d.axes for d in decisions),
        compared=len(judged),
        flipped=sum(each.flipped for each in judged),
        corrections=[
            Correction(d.row_id, d.reasons, *prompt_and_response(samples[d.row_id]), corrected[d.row_id][-1].content)
            for d in decisions
            if d.row_id in corrected
        ],
        dropped=[
            ShownRow(d.row_id, d.reasons, *prompt_and_response(samples[d.row_id]))
            for d in decisions
            if d.actions[0] == Action.DROP
        ],
        calibration=calibrate(decisions, one.known, signal, {name: m[-1].content for name, m in corrected.items()}),
        map=map_of(one, _going_on(one)),
    )


def _going_on(one: Decided) -> Iterator[tuple[str, str]]:
    """The rows that would have gone on, which alone have vectors: the sample of each, and what became of it."""
    left_out = {held.row_id for held in one.history.held(one.number) if not held.kept}
    for d in one.decisions:
        if d.actions[0] != Action.DROP:
            sample = d.hints[0] if d.actions[0] == Action.CORRECT else d.sample_hash
            yield sample, "left_out" if d.row_id in left_out else d.actions[0]


def clear_notes(history: RunHistory, rounds: Sequence[ClearRound]) -> list[str]:
    """What a reader should know before believing the numbers."""
    settings = settings_in(history.run, ClearSettings)
    notes = []
    for one in rounds:
        evidence = _evidence(history, one.number)
        notes += [f"Round {one.number}: {note}" for note in evidence_notes(evidence, settings)]
        notes += [f"Round {one.number}: {note}" for note in place_notes(one.flipped, one.compared)]
        if one.actions.get(Action.UNSCORED, 0) > 0.2 * one.num_rows:
            notes.append(
                f"Round {one.number}: {one.actions[Action.UNSCORED]} of {one.num_rows} rows have no value to be"
                " filtered by."
            )
    return notes


def _evidence(history: RunHistory, number: int) -> list[Evidence]:
    hashes = list(dict.fromkeys(row.sample_hash for row in history.rows(number)))
    return list(history.evidence(number, hashes).values())
