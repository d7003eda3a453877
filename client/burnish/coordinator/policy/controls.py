"""Random controls: what chance makes of as many rows as a recipe kept. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.assembly import DataRow


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows to train on; `seed` of that training where it is another one than the run's."""

    rows: Sequence[DataRow]
    seed: int | None = None


def draws(rows: Sequence[DataRow], size: int, seed: int, count: int) -> list[Draw]:
    """`count` random subsets of `size` rows. Where that is all there are, every draw is the same, and what is left to
    chance is the training's own order: then each gets a seed of its own."""
    if size < len(rows):
        return [Draw(random_rows(rows, size, seed, number)) for number in range(count)]
    seeds = [derive_seed(seed, "random subset", number, "train") % 2**32 for number in range(count)]
    return [Draw(rows, one) for one in seeds]


def random_rows(rows: Sequence[DataRow], size: int, seed: int, number: int) -> list[DataRow]:
    """The random subset of that number: `size` rows, in the order of `rows`, of different samples as far as there are
    so many: what a selection is compared with must not be worse off by duplicates."""
    first = {row.sample_hash: row for row in reversed(rows)}
    drawing = random.Random(derive_seed(seed, "random subset", number))
    wanted = {first[sample].row_id for sample in drawing.sample(sorted(first), min(size, len(first)))}
    copies = sorted(row.row_id for row in rows if row.row_id != first[row.sample_hash].row_id)
    wanted.update(drawing.sample(copies, min(size - len(wanted), len(copies))))
    return [row for row in rows if row.row_id in wanted]
