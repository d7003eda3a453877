"""Who stands for what was dropped: of each dropped row the nearest kept one, to show next to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from burnish_services.embedding.coverage.arrays import Check, Doubles, Rows
from burnish_services.embedding.coverage.vectors import UnitVectors


@dataclass(frozen=True, slots=True, eq=False)
class Witnesses:
    """The dropped rows, ascending, and of each the nearest kept row and their cosine in [-1, 1]. All of one shape."""

    dropped: Rows
    kept: Rows
    cosines: Doubles


def witnesses(vectors: UnitVectors, kept: Rows, *, check: Check = lambda: None) -> Witnesses:
    """The nearest row of `kept`, in any order, for each row that is not in it; ties go to the lower row.

    Needs some blocks of memory besides the vectors. `check` is called every so often and may raise to give up. Raises
    ValueError where nothing is kept but something dropped, and for kept rows that are not there.
    """
    if len(kept) and not 0 <= kept.min() <= kept.max() < vectors.num_rows:
        raise ValueError(f"rows {kept.min()} to {kept.max()} are kept, expected them in [0, {vectors.num_rows})")
    is_kept = np.zeros(vectors.num_rows, bool)
    is_kept[kept] = True
    ascending, dropped = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
    if len(dropped) and not len(ascending):
        raise ValueError("no row is kept, so none can stand for those dropped")
    nearest = np.empty(len(dropped), np.intp)
    best = np.full(len(dropped), -np.inf)
    for part, block in vectors.blocks(dropped):
        for columns, others in vectors.blocks(ascending):
            check()
            cosines = block.cosines(others)
            place = cosines.argmax(axis=1)  # the first of the nearest
            found = np.take_along_axis(cosines, place[:, None], axis=1)[:, 0]
            is_nearer = found > best[part]
            nearest[part][is_nearer] = ascending[columns][place[is_nearer]]
            best[part][is_nearer] = found[is_nearer]
    return Witnesses(dropped, nearest, best)
