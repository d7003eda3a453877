"""Collects what a report says of Middo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from burnish._types import Role
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.acceptance import Acceptance, Refusal, why
from burnish.coordinator.policy.middo import recall_note
from burnish.coordinator.records import DecisionRecord, RewriteRecord
from burnish.coordinator.truth import Known
from burnish.report.common import Decided, map_of, measured, said_by
from burnish.report.data import AXES, Change, FlawRate, FlawTable, MiddoRound, Tried
from burnish.report.map import Key, Legend

_ADDED = "diversify"
_BROKE_RULES = "REJECTED"  # the rewriting service's reason where every attempt did; others say nothing of the rewrite
LEGEND = Legend(
    (
        Key("keep", "mist", "kept as it is"),
        Key("simplify", "amber", "to simplify"),
        Key("improve", "violet", "to improve"),
        Key("diversify", "teal", "to diversify: a new row beside it"),
        Key("several", "ink", "more than one of these"),
    ),
    "A point is a row as the round began, by its prompt's mean hidden state in this round's model; colours are"
    " what was decided. Every round has axes of its own: two maps cannot be laid over each other.",
)


def middo_round(one: Decided) -> MiddoRound:
    """One round from the ledger."""
    decisions = one.decisions
    rewrites = one.history.rewrites(one.number)
    acceptances = [r.acceptance for r in rewrites if r.acceptance is not None]
    declined = sum(each.refusal == Refusal.DECLINED for each in acceptances)
    accepted = [r for r in rewrites if r.accepted]
    failed = sum(_failed(r) for r in rewrites)
    by_row = {decision.row_id: decision for decision in decisions}
    return MiddoRound(
        **measured(one),
        selected={axis: sum(axis in d.axes for d in decisions) for axis in AXES},
        rewritten=len({r.row_id for r in accepted if r.strategy != _ADDED}),
        added=sum(r.strategy == _ADDED for r in accepted),
        rejected=len(rewrites) - len(accepted) - declined - failed,
        failed=failed,
        changes=[_change(rewrite, by_row[rewrite.row_id]) for rewrite in rewrites],
        map=map_of(one, ((d.sample_hash, _group(d)) for d in decisions)),
        tried=_tried(acceptances),
        declined=declined,
        flaws=_flaws(decisions, one.known) if one.known else None,
    )


def _tried(acceptances: Sequence[Acceptance]) -> Tried | None:
    if all(one.refusal == Refusal.DECLINED for one in acceptances):  # there are none, or none was tried
        return None
    refused = [one for one in acceptances if not one.accepted]
    against = Counter((one.loss_against, one.rating_against) for one in refused)
    invalid = sum(one.refusal == Refusal.INVALID for one in refused)
    return Tried(
        asked=len(acceptances),
        accepted=len(acceptances) - len(refused),
        invalid=invalid,
        by_loss=against[True, False],
        by_rating=against[False, True],
        by_both=against[True, True],
        unknown=against[False, False] - invalid,
        dropped=len({one.row_id for one in refused if one.dropped}),
    )


def _group(decision: DecisionRecord) -> str:
    """What a row counts as in the map."""
    return decision.actions[0] if len(decision.actions) == 1 else "several"


def _change(rewrite: RewriteRecord, decision: DecisionRecord) -> Change:
    before, after = rewrite.before, rewrite.after
    return Change(
        row_id=rewrite.row_id,
        axes=decision.axes,
        action=rewrite.strategy,
        reasons=decision.reasons,
        before_prompt=said_by(before, Role.USER),
        before_response=said_by(before, Role.ASSISTANT),
        after_prompt=None if after is None else said_by(after, Role.USER),
        after_response=None if after is None else said_by(after, Role.ASSISTANT),
        rejection="" if rewrite.accepted else _rejection(rewrite),
        dropped=rewrite.acceptance is not None and rewrite.acceptance.dropped,
        failed=_failed(rewrite),
    )


def _failed(rewrite: RewriteRecord) -> bool:
    """Whether the service could not make it; no rule was broken, and none was asked whether it is accepted."""
    declined = rewrite.acceptance is not None and rewrite.acceptance.refusal == Refusal.DECLINED
    return rewrite.after is None and rewrite.reason != _BROKE_RULES and not declined


def _rejection(rewrite: RewriteRecord) -> str:
    if rewrite.after is not None and rewrite.acceptance is not None:
        return why(rewrite.acceptance)
    words = [a.rejection.replace("_", " ") for a in rewrite.attempts if a.rejection]
    return ", ".join(dict.fromkeys(words)) or rewrite.message


def _flaws(decisions: Sequence[DecisionRecord], known: Mapping[str, Known]) -> FlawTable:
    """Counts over the rows that still are what the source gave: a rewritten row has lost its planted flaw."""
    rows = [d for d in decisions if d.origin == "source"]
    planted = {row_id: one.flaw for row_id, one in known.items() if one.flaw}

    def rate(label: str, members: Sequence[DecisionRecord]) -> FlawRate:
        found = {axis: sum(axis in d.axes for d in members) for axis in AXES}
        return FlawRate(label, len(members), found | {"any": sum(bool(d.axes) for d in members)})

    flaws = sorted(set(planted.values()))
    rates = [rate(flaw, [d for d in rows if planted.get(d.row_id) == flaw]) for flaw in flaws]
    clean = rate("none", [d for d in rows if d.row_id in known and not known[d.row_id].flaw])
    gone = len(decisions) - len(rows)
    note = f"{gone} rows that earlier rounds rewrote or added are not counted here." if gone else ""
    return FlawTable(rates, clean, note)


def middo_notes(history: RunHistory, rounds: Sequence[MiddoRound]) -> list[str]:
    """What a reader should know before believing the numbers."""
    notes = []
    for step in history.steps():
        detail: Mapping[str, Any] = step.detail
        if step.name == "embed" and "recall" in detail:
            notes.append(f"Round {step.round}: {recall_note(detail['recall'], detail['num_queries'])}")
    for one in rounds:
        for threshold in one.thresholds:
            measured = threshold.num_values + threshold.num_excluded
            if measured and threshold.num_excluded > 0.2 * measured:
                notes.append(
                    f"Round {one.number}: {threshold.num_excluded} of {measured} rows have no value for "
                    f"{threshold.signal.replace('_', ' ')} and took no part in that axis."
                )
        if one.declined:
            notes.append(
                f"Round {one.number}: nothing was rewritten, since no rewrite is accepted in this run; "
                + (f"the set lost {one.dropped} that would have been replaced." if one.dropped else "all rows stay.")
            )
            continue
        asked = len(one.changes)
        invalid = one.rejected if one.tried is None else one.tried.invalid
        if asked and invalid > 0.5 * asked:
            kept = ", their originals kept" if one.tried is None else ""
            notes.append(
                f"Round {one.number}: {invalid} of {asked} rewrites were rejected by validation{kept}. A larger "
                "refiner model (--refiner) would do better."
            )
        if one.tried is None and one.failed:
            reasons = [f for f in one.failures if f.step == "refine" and f.reason != _BROKE_RULES]
            told = ", ".join(f"{f.reason} {f.count}" for f in reasons)
            notes.append(
                f"Round {one.number}: {one.failed} of {asked} rewrites could not be made ({told}), their originals "
                "kept. That says nothing of the rows, nor of the refiner model."
            )
        if one.tried is not None and one.tried.unknown:
            notes.append(
                f"Round {one.number}: of {one.tried.unknown} rewrites a loss or a rating could not be had, or they "
                "could not be made; they are not accepted, and their originals kept."
            )
    return notes
