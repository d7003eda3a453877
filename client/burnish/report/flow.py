"""What became of the rows, from the source to the newest data set, whichever recipe did it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from burnish.coordinator.policy.assembly import DataRow
from burnish.report.short_data import Flow


def flow_of(first: Sequence[DataRow], last: Sequence[DataRow], aside: Collection[str] = ()) -> Flow:
    """`first`: the rows of the source; `last`: those that went on; `aside`: ids of rows that a recipe keeps to judge
    by."""
    before = {row.row_id: row.sample_hash for row in first}
    there = {row.row_id: row.sample_hash for row in last}
    kept = sum(there.get(row_id) == name for row_id, name in before.items())
    rewritten = sum(row_id in there and there[row_id] != name for row_id, name in before.items())
    judging = sum(row_id not in there and row_id in before for row_id in aside)
    gone = len(before) - kept - rewritten - judging
    return Flow(kept, rewritten, judging, gone, sum(row_id not in before for row_id in there))
