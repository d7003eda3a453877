"""Rows for a base model that can do the task, as those that people fine-tune mostly can. Pure.

SmolLM2-135M cannot. While a model is only learning what a task is, what it makes of so few rows depends more on which
it sees last than on how many are wrong. So the base of all arms may be trained on clean rows first, which no cell has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.efficacy.row import RowT
from bench.efficacy.task import Dataset, TooFew, by_group

_HELD_OUT = 50  # rows that tell how far it came


def set_apart(rows: Sequence[RowT], count: int) -> tuple[Dataset, list[RowT]]:
    """`count` clean rows for the base model and a few to judge it by, always the same ones, and the rows that are left;
    no group has rows in two of them. Raises TooFew."""
    groups = by_group(rows)
    order = sorted(groups)
    random.Random(0).shuffle(order)

    def take(most: int) -> list[RowT]:
        taken: list[RowT] = []
        while order and len(taken) < most:
            taken += groups[order.pop()]
        return taken[:most]

    held_out, training = take(min(_HELD_OUT, count)), take(count)
    if len(training) < count:
        raise TooFew(f"{len(training)} of {len(rows)} rows are there to train it on; {count} were asked for")
    return Dataset(training, {}, [], held_out), [row for name in order for row in groups[name]]
