"""Where each row of a data set comes from, what was done to it in which round, and why; and which rows are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish._types import Message
from burnish.coordinator.content import message_list, sample_hash
from burnish.coordinator.history import RunHistory
from burnish.coordinator.policy.acceptance import told
from burnish.coordinator.policy.assembly import DataRow, RowIds, assemble
from burnish.coordinator.policy.middo import Action as Rewriting
from burnish.coordinator.policy.middo import Decision
from burnish.coordinator.policy.verdict import ANSWERED, GONE, Action
from burnish.coordinator.records import DecisionRecord


def provenance(history: RunHistory, round_number: int) -> Iterator[dict[str, Any]]:
    """One object for each row of a round's data set, in its order: row_id, origin, parent, source_row_id, sample_hash,
    actions (round, action, accepted) and reasons. A new row has the action that made it, and its parent's reasons."""
    decided: dict[int, dict[str, DecisionRecord]] = {}
    accepted: dict[int, dict[tuple[str, str], bool]] = {}
    refused: dict[int, dict[str, list[str]]] = {}
    born: dict[str, tuple[int, str]] = {}  # the round that a row is in first, and its origin then
    for dataset in history.datasets():
        number = dataset.round
        if number > round_number:
            break
        for row in history.rows(number):
            born.setdefault(row.row_id, (number, row.origin))
        if number < round_number:
            decided[number] = {d.row_id: d for d in history.decisions(number) if d.actions[0] != Action.KEEP}
            refused[number] = _refusals(history, number)
            accepted[number] = {(r.row_id, r.strategy): r.accepted for r in history.rewrites(number)}
            # What is answered anew is decided on once the other response is there.
            answered = ((row_id, d.actions[0]) for row_id, d in decided[number].items() if d.actions[0] in ANSWERED)
            accepted[number] |= dict.fromkeys(answered, True)
    for row in history.rows(round_number):
        actions: list[dict[str, Any]] = []
        reasons: list[str] = []
        if row.parent_row_id is not None:
            first, action = born[row.row_id]
            actions.append({"round": first - 1, "action": action, "accepted": True})
            reasons += _reasons(first - 1, decided[first - 1][row.parent_row_id])
        for number, decisions in decided.items():
            decision = decisions.get(row.row_id)
            if decision is None:
                continue
            actions += [
                {"round": number, "action": action, "accepted": accepted[number].get((row.row_id, action), False)}
                for action in decision.actions
                if action != Action.UNSCORED
            ]
            reasons += _reasons(number, decision)
            reasons += [f"Round {number}: {one}" for one in refused[number].get(row.row_id, [])]
        yield {
            "row_id": row.row_id,
            "origin": row.origin,
            "parent": row.parent_row_id,
            "source_row_id": row.source_row_id,
            "sample_hash": row.sample_hash,
            "actions": actions,
            "reasons": reasons,
        }


def dropped(history: RunHistory, round_number: int) -> Iterator[dict[str, Any]]:
    """One object for each row that was dropped before a round, or left out to hold the set's size: row_id, the round
    that dropped it, its conversation as it was then, the signals and the reasons; a row that was left out in the round
    that wrote it as it was written."""
    for dataset in history.datasets():
        if dataset.round >= round_number:
            return
        gone: dict[str, tuple[dict[str, Any], list[str]]] = {
            d.row_id: (dict(d.signals), list(d.reasons))
            for d in history.decisions(dataset.round)
            if d.actions[0] in GONE
        }
        gone |= {one.row_id: ({}, [one.reason]) for one in history.held(dataset.round) if not one.kept}
        gone |= _refused(history, dataset.round)
        if not gone:
            continue
        for row, messages in history.conversations(dataset.round):
            if row.row_id in gone:
                yield _gone(row, dataset.round, messages, *gone[row.row_id])
        unborn = left_out_at_once(history, dataset.round)
        texts = history.samples(one.row.sample_hash for one in unborn)
        for one in unborn:
            yield _gone(one.row, dataset.round, texts[one.row.sample_hash], {}, [one.reason])


def _gone(
    row: DataRow, round_number: int, messages: Sequence[Message], signals: Mapping[str, Any], reasons: Sequence[str]
) -> dict[str, Any]:
    return {
        "row_id": row.row_id,
        "round": round_number,
        "source_row_id": row.source_row_id,
        "sample_hash": row.sample_hash,
        "messages": message_list(messages),
        "signals": dict(signals),
        "reasons": list(reasons),
    }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that was written in a round and left out at its end to hold the set's size, so that no data set has it."""

    row: DataRow
    reason: str


def left_out_at_once(history: RunHistory, number: int) -> list[LeftOut]:
    """The rows that were new at the end of a round and are in no data set. The ledger has their ids, in the order in
    which the round's rows, decisions and rewrites give them."""
    rows = history.rows(number)
    there = {row.row_id for row in rows}
    held = history.held(number)
    if all(one.kept or one.row_id in there for one in held):
        return []
    accepted = [one for one in history.rewrites(number) if one.accepted and one.after is not None]
    outcomes = {(one.row_id, Rewriting(one.strategy)): sample_hash(one.after or ()) for one in accepted}
    decisions = [
        Decision(one.row_id, (), tuple(Rewriting(word) for word in one.actions), {}, ())
        for one in history.decisions(number)
    ]
    gone = {one.row_id for one in history.acceptance.of_round(number) if one.dropped}
    ids = RowIds((), numbers=False)  # what they are called is in the ledger
    following = assemble(rows, decisions, outcomes, ids, round_number=number, gone=gone)
    return [
        LeftOut(replace(row, row_id=one.row_id), one.reason)
        for row, one in zip(following, held, strict=True)
        if not one.kept and one.row_id not in there
    ]


def _refused(history: RunHistory, number: int) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """The rows that left because every rewrite of them was refused, with signals and reasons."""
    left = {one.row_id for one in history.acceptance.of_round(number) if one.dropped}
    refusals = _refusals(history, number)
    return {
        d.row_id: (dict(d.signals), [*d.reasons, *refusals[d.row_id]])
        for d in (history.decisions(number) if left else [])
        if d.row_id in left
    }


def _refusals(history: RunHistory, number: int) -> dict[str, list[str]]:
    """By row, why rewrites of it were not accepted, where more than rules decide."""
    found: dict[str, list[str]] = {}
    for one in history.acceptance.of_round(number):
        if not one.accepted:
            found.setdefault(one.row_id, []).append(told(one))
    return found


def _reasons(number: int, decision: DecisionRecord) -> list[str]:
    return [f"Round {number}: {reason}" for reason in decision.reasons]
