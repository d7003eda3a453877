"""Rows for a base model that can do the task, as those that people fine-tune mostly can. Pure.

SmolLM2-135M cannot. While a model is only learning what a task is, what it makes of so few rows depends more on which
it sees last than on how many are wrong. So the base of all arms may be trained on clean rows first, which no cell has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.efficacy.row import RowT
from bench.efficacy.task import by_group


def set_apart(rows: Sequence[RowT], count: int) -> tuple[list[RowT], list[RowT]]:
    """At least `count` rows for the base model, always the same ones, and those that are left; no group has rows in
    both."""
    groups = by_group(rows)
    order = sorted(groups)
    random.Random(0).shuffle(order)
    taken: list[RowT] = []
    while order and len(taken) < count:
        taken += groups[order.pop()]
    return taken, [row for name in order for row in groups[name]]
