"""Which rows are measured by which model of a cross-fitting. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.assembly import DataRow


def assign_folds(rows: Sequence[DataRow], prompts: Mapping[str, str], count: int, seed: int) -> list[list[DataRow]]:
    """The rows in `count` folds, each in the order of `rows`: all rows with the same prompt in the same fold, folds as
    even as that allows, drawn by seed over prompts. `prompts`: a name for the prompt of each sample, by its hash.
    Raises ValueError where there are fewer prompts than folds."""
    sizes: dict[str, int] = {}
    for row in rows:
        prompt = prompts[row.sample_hash]
        sizes[prompt] = sizes.get(prompt, 0) + 1
    if len(sizes) < count:
        raise ValueError(f"{len(sizes)} different prompts cannot be divided into {count} folds")
    order = sorted(sizes)
    random.Random(derive_seed(seed, "folds")).shuffle(order)
    order.sort(key=lambda prompt: -sizes[prompt])  # the largest first, or the last could not be evened out
    held = [0] * count
    fold_of: dict[str, int] = {}
    for prompt in order:
        fold = held.index(min(held))
        fold_of[prompt] = fold
        held[fold] += sizes[prompt]
    return [[row for row in rows if fold_of[prompts[row.sample_hash]] == number] for number in range(count)]
