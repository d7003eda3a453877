"""What may be picked: a budget, budgets of groups, and rows that were selected before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.coverage.arrays import Doubles, Rows


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """Rows in order of picking, and what each added when it was picked. Every prefix is a core set."""

    rows: Rows  # (picks,)
    gains: Doubles  # (picks,)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """At most `budgets[g]` rows are picked of those whose `of_row` is g.

    `of_row` has shape (n,), integers in [0, G), `budgets` shape (G,), integers >= 0. Raises ValueError for other
    input.
    """

    of_row: NDArray[np.integer]
    budgets: NDArray[np.integer]

    def __post_init__(self) -> None:
        if (self.budgets < 0).any():
            raise ValueError(f"a group's budget is {self.budgets.min()}, expected at least 0")
        if len(self.of_row) and not 0 <= self.of_row.min() <= self.of_row.max() < len(self.budgets):
            raise ValueError(
                f"groups from {self.of_row.min()} to {self.of_row.max()}, expected them in [0, {len(self.budgets)}), "
                "for which there are budgets"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The rows to pick from, and how many; without groups all rows are in one. `room` goes down with every pick."""

    start: Rows  # selected before
    candidates: Rows  # ascending, none of them in `start`, all in groups with room
    budget: int  # how many will be picked: no more than there are candidates and their groups have room for
    of_row: Rows  # (n,): each row's group
    room: Rows  # (G,): what may still be picked of each group

    @classmethod
    def open(cls, num_rows: int, budget: int, start: Sequence[int] | Rows, groups: Groups | None) -> Pool:
        """All rows that are not in `start`, which budgets do not count. Raises ValueError for a negative budget, for
        rows in `start` that are repeated or outside [0, num_rows), and for groups of another number of rows."""
        if budget < 0:
            raise ValueError(f"the budget is {budget}, expected at least 0")
        before = np.array(start, np.intp)
        if len(before) and not 0 <= before.min() <= before.max() < num_rows:
            raise ValueError(f"start has rows {before.min()} to {before.max()}, expected them in [0, {num_rows})")
        is_candidate = np.ones(num_rows, bool)
        is_candidate[before] = False
        if np.count_nonzero(is_candidate) + len(before) != num_rows:
            raise ValueError("start has a row more than once")
        if groups is None:
            groups = Groups(np.zeros(num_rows, np.intp), np.array([budget]))
        if groups.of_row.shape != (num_rows,):
            raise ValueError(f"groups are given for rows of shape {groups.of_row.shape}, expected ({num_rows},)")
        of_row, room = np.array(groups.of_row, np.intp), np.array(groups.budgets, np.intp)
        return cls(before, np.empty(0, np.intp), budget, of_row, room).only(np.flatnonzero(is_candidate), budget)

    def only(self, rows: Rows, budget: int) -> Pool:
        """The same for at most `budget` of the given candidates, ascending, with room of its own."""
        candidates = self.still_open(rows)
        sizes = np.bincount(self.of_row[candidates], minlength=len(self.room))
        most = int(np.minimum(sizes, self.room).sum())
        return replace(self, candidates=candidates, budget=min(budget, most), room=self.room.copy())

    def is_open(self, row: int) -> bool:
        """Whether the row's group has room."""
        return bool(self.room[self.of_row[row]] > 0)

    def still_open(self, rows: Rows) -> Rows:
        """Those of `rows` whose groups have room, in their order."""
        return rows[self.room[self.of_row[rows]] > 0]

    def take(self, row: int) -> None:
        """Takes up room for a row."""
        self.room[self.of_row[row]] -= 1


class Picks:
    """A selection in the making."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.gains: list[float] = []

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: int, gain: float) -> None:
        """Takes down a pick."""
        self.rows.append(row)
        self.gains.append(gain)

    def selection(self) -> Selection:
        """What has been picked."""
        return Selection(np.array(self.rows, np.intp), np.array(self.gains, np.float64))
