"""Step `assemble` of the recipes that only choose: the rows that are kept, as the next data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.steps.stage import AnyRun

KEEP, UNSCORED, REFINE = "keep", "unscored", "refine"


def kept_rows(run: AnyRun, round_number: int, rows: Sequence[DataRow]) -> list[DataRow]:
    """The rows that are kept, and those with another response, in the order of the source."""
    decisions = {one.row_id: one for one in run.book.decisions(round_number)}
    return [made for row in rows if (made := _following(row, decisions[row.row_id])) is not None]


def assemble_kept(
    run: AnyRun, round_number: int, rows: Sequence[DataRow], following: Sequence[DataRow] | None = None
) -> None:
    """The rows that are kept as the next data set; of them `following` alone, where not all go on."""
    stage = run.stage(round_number, "assemble")
    if stage.done:
        return
    book = run.book
    with stage.working():
        stage.expect(len(rows))
        kept = kept_rows(run, round_number, rows)
        going_on = kept if following is None else following
        with book.transaction():
            if book.dataset(round_number + 1) is None:
                book.add_dataset(round_number + 1, going_on)
            stage.advance(len(rows))
        counts = Counter(one.actions[0] for one in book.decisions(round_number))
        said = ", ".join(f"{count} {action}" for action, count in counts.most_common())
        held = f"; {len(going_on)} go on" if len(going_on) < len(kept) else ""
        run.observer.noted(f"Of {len(rows)} rows: {said}{held}.")


def _following(row: DataRow, decision: DecisionRecord) -> DataRow | None:
    action = decision.actions[0]
    if action == REFINE:
        return replace(row, sample_hash=decision.hints[0], origin=REFINE)
    return row if action in (KEEP, UNSCORED) else None
