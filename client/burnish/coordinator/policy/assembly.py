"""From decisions and rewrites to the rows of the next round. Pure; texts are known by hash only.

By default a replaced row keeps its place and its id, a second replacement and new rows go to the end, and duplicates
stay. With `compat` the order is Middo's: remain ++ refined(H) ++ new(S) ++ refined(Q); see `policy.middo`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from burnish.coordinator.policy.middo import Action, Axis, Decision


@dataclass(frozen=True, slots=True)
class DataRow:
    """One row of a data set. `origin` says what made its text: source, or the action (simplify, improve, diversify,
    correct, refine) that did; `source_row_id` is the source row that it goes back to, itself for the source's own."""

    row_id: str
    sample_hash: str
    origin: str
    parent_row_id: str | None
    source_row_id: str


class RowIds:
    """Gives out ids for new rows: the next number where ids are numbers, else the parent's with a suffix."""

    def __init__(self, taken: Iterable[str], *, numbers: bool) -> None:
        self._taken = set(taken)
        self._next = max((int(row_id) for row_id in self._taken), default=0) + 1 if numbers else None

    def new(self, parent: str, action: Action, round_number: int) -> str:
        """An id that nothing else has; the same for the same data and decisions."""
        if self._next is not None:
            row_id = str(self._next)
            self._next += 1
        else:
            row_id = f"{parent}+{action.value[0]}{round_number}"
            while row_id in self._taken:
                row_id += "'"
        self._taken.add(row_id)
        return row_id


_REPLACING = (Action.SIMPLIFY, Action.IMPROVE)
# What became of each rewrite that was asked for: the new sample's hash, or None where every attempt was rejected.
Outcomes = Mapping[tuple[str, Action], str | None]


def assemble(
    rows: Sequence[DataRow],
    decisions: Sequence[Decision],
    outcomes: Outcomes,
    ids: RowIds,
    *,
    round_number: int,
    gone: Collection[str] = (),
) -> list[DataRow]:
    """The next data set in our order. A row all of whose replacements were rejected stays as it is, unless it is one of
    `gone`: then it leaves, and what it inspired stays."""
    stay: list[DataRow] = []
    added: list[DataRow] = []
    for row, decision in zip(rows, decisions, strict=True):
        results = [(action, outcomes.get((row.row_id, action))) for action in decision.actions]
        done = [(action, result) for action, result in results if result is not None]
        replacements = [(action, result) for action, result in done if action is not Action.DIVERSIFY]
        if row.row_id not in gone:
            stay.append(_replaced(row, *replacements[0]) if replacements else row)
        for action, result in [*replacements[1:], *(d for d in done if d[0] is Action.DIVERSIFY)]:
            added.append(_added(row, action, result, ids, round_number))
    return stay + added


def assemble_compat(
    rows: Sequence[DataRow],
    decisions: Sequence[Decision],
    outcomes: Outcomes,
    ids: RowIds,
    *,
    round_number: int,
    keys: Sequence[tuple[str, str]],
) -> list[DataRow]:
    """The next data set in the published order; `keys` are the rows' (instruction, output), shape as `rows`. As in
    `assemble`, a row all of whose replacements were rejected stays."""
    pairs = list(zip(rows, decisions, keys, strict=True))
    not_low = {key for _, decision, key in pairs if Axis.LOW_QUALITY not in decision.axes}
    remain: dict[tuple[str, str], DataRow] = {}
    for row, decision, key in pairs:
        ends = [outcomes.get((row.row_id, one)) for one in decision.actions if one in _REPLACING]
        all_rejected = bool(ends) and not any(ends)
        if all_rejected or (Axis.HARD not in decision.axes and key in not_low):
            remain.setdefault(key, row)
    result = list(remain.values())
    used = {row.row_id for row in result}
    for action in (Action.SIMPLIFY, Action.DIVERSIFY, Action.IMPROVE):
        for row, decision, _ in pairs:
            made = outcomes.get((row.row_id, action)) if action in decision.actions else None
            if made is None:
                continue
            if action is Action.DIVERSIFY or row.row_id in used:
                result.append(_added(row, action, made, ids, round_number))
            else:
                used.add(row.row_id)
                result.append(_replaced(row, action, made))
    return result


def _replaced(row: DataRow, action: Action, made: str) -> DataRow:
    return replace(row, sample_hash=made, origin=action.value)


def _added(row: DataRow, action: Action, made: str, ids: RowIds, round_number: int) -> DataRow:
    row_id = ids.new(row.row_id, action, round_number)
    return DataRow(row_id, made, action.value, row.row_id, row.source_row_id)
