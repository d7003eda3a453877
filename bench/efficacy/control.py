"""Controls: random rows, as many as an arm has in the end. Arms that have as many share theirs."""

from __future__ import annotations

import random
from pathlib import Path

from bench.efficacy.cell import Cell
from burnish.coordinator.content import derive_seed


def draws(cell: Cell, rows: int) -> list[Path]:
    """The files of `rows` random training rows each, in the data's order, the same bytes each time; as many as
    the cell's `random_subsets`. None where no fewer than all are asked for: nothing is left to chance then."""
    training = cell.files.training
    with training.open(encoding="utf-8") as stream:
        lines = list(stream)
    if rows >= len(lines):
        return []
    found = []
    for number in range(cell.random_subsets):
        path = training.with_name(f"random-{rows}-{number}.jsonl")
        rng = random.Random(derive_seed(cell.seed, "control", rows, number))
        drawn = sorted(rng.sample(range(len(lines)), rows))
        path.write_text("".join(lines[place] for place in drawn), encoding="utf-8")
        found.append(path)
    return found
