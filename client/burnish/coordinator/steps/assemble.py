"""Step `assemble`: the next data set, and of which rows it is where a recipe decides on one action for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.verdict import ANSWERED, STAYS
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.steps.stage import AnyRun, Stage


def kept_rows(run: AnyRun, round_number: int, rows: Sequence[DataRow]) -> list[DataRow]:
    """The rows that are kept, and those with another response, in the order of the source."""
    decisions = {one.row_id: one for one in run.book.decisions(round_number)}
    return [made for row in rows if (made := _following(row, decisions[row.row_id])) is not None]


def write_following(run: AnyRun, stage: Stage, rows: Sequence[DataRow], following: Sequence[DataRow]) -> None:
    """What follows from a round's `rows` as the next data set, written down once; the work of a step `assemble`."""
    stage.expect(len(rows))
    with run.book.transaction():
        if run.book.dataset(stage.round + 1) is None:
            run.book.add_dataset(stage.round + 1, following)
        stage.advance(len(rows))


def assemble_kept(
    run: AnyRun, round_number: int, rows: Sequence[DataRow], following: Sequence[DataRow] | None = None
) -> None:
    """The rows that are kept as the next data set; of them `following` alone, where not all go on."""
    stage = run.stage(round_number, "assemble")
    if stage.done:
        return
    with stage.working():
        kept = kept_rows(run, round_number, rows)
        going_on = kept if following is None else following
        write_following(run, stage, rows, going_on)
        counts = Counter(one.actions[0] for one in run.book.decisions(round_number))
        said = ", ".join(f"{count} {action}" for action, count in counts.most_common())
        held = f"; {len(going_on)} go on" if len(going_on) < len(kept) else ""
        run.observer.noted(f"Round {round_number}, of {len(rows)} rows: {said}{held}.")


def _following(row: DataRow, decision: DecisionRecord) -> DataRow | None:
    action = decision.actions[0]
    if action in ANSWERED:
        return replace(row, sample_hash=decision.hints[0], origin=action)
    return row if action in STAYS else None
