"""Step `assemble` of the recipes that only choose: the rows that are kept, as the next data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.steps.stage import AnyRun

KEEP, REFINE = "keep", "refine"


def assemble_kept(run: AnyRun, round_number: int, rows: Sequence[DataRow]) -> None:
    """The rows that are kept, and those with another response, as the next data set, in the order of the source."""
    stage = run.stage(round_number, "assemble")
    if stage.done:
        return
    book = run.book
    with stage.working():
        stage.expect(len(rows))
        decisions = {one.row_id: one for one in book.decisions(round_number)}
        following = (_following(row, decisions[row.row_id]) for row in rows)
        with book.transaction():
            if book.dataset(round_number + 1) is None:
                book.add_dataset(round_number + 1, [row for row in following if row is not None])
            stage.advance(len(rows))
        counts = Counter(one.actions[0] for one in decisions.values())
        said = ", ".join(f"{count} {action}" for action, count in counts.most_common())
        run.observer.noted(f"Of {len(rows)} rows: {said}.")


def _following(row: DataRow, decision: DecisionRecord) -> DataRow | None:
    action = decision.actions[0]
    if action == REFINE:
        return replace(row, sample_hash=decision.hints[0], origin=REFINE)
    return row if action == KEEP else None
