"""Step `assemble` of the recipes that only choose: the rows that are kept, as the next data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.steps.stage import AnyRun

KEEP = "keep"


def assemble_kept(run: AnyRun, round_number: int, rows: Sequence[DataRow]) -> None:
    """The rows that are kept, as the next data set, in the order of the source."""
    stage = run.stage(round_number, "assemble")
    if stage.done:
        return
    book = run.book
    with stage.working():
        stage.expect(len(rows))
        actions = {one.row_id: one.actions[0] for one in book.decisions(round_number)}
        with book.transaction():
            if book.dataset(round_number + 1) is None:
                book.add_dataset(round_number + 1, [row for row in rows if actions[row.row_id] == KEEP])
            stage.advance(len(rows))
        said = ", ".join(f"{count} {action}" for action, count in Counter(actions.values()).most_common())
        run.observer.noted(f"Of {len(rows)} rows: {said}.")
