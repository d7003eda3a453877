"""CLEAR's Auto-Filter (arXiv 2403.12776 §3.1): which rows are trained on as they are. Pure.

    F = {(x_i, y_i): c_i >= gamma}

The paper draws gamma at the median and keeps what is above it; scores with few levels tie there, and a strict
comparison could drop far more than half, or everything. Here what stands on the line is kept, or, if asked for, ties
are broken at random by seed so that exactly the wanted share goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.thresholds import Threshold, as_values

AXIS = "low_confidence"


class Ties(StrEnum):
    """What happens to rows that stand on the line."""

    KEEP = "keep"  # all stay, so that fewer go than asked for
    RANK = "rank"  # as many go as asked for, drawn by seed


@dataclass(frozen=True, slots=True)
class FilterRule:
    """Where the line is: `threshold` itself, else at `drop_fraction` in [0, 1) of the scored rows, else the median.
    `round_number`: a random control draws anew in each round."""

    threshold: float | None = None
    drop_fraction: float | None = None
    ties: Ties = Ties.KEEP
    control: Control = Control.NONE
    seed: int = 0
    round_number: int = 1


def filter_rows(
    signal: str,
    row_ids: Sequence[str],
    values: Sequence[float | None],
    rule: FilterRule,
    *,
    axis: str = AXIS,
    standing: Mapping[str, bool | None] | None = None,
) -> tuple[Threshold, list[bool | None]]:
    """The line, and for each row whether it passes; None for a row without a value. Order plays no part.

    `standing`: what the round before found of the rows that have not changed since, by id. Held against the same line
    they are found the same again, so a random control, which cannot tell that by a value, takes it from there: it draws
    among the other rows alone, as many as lie below the line.
    """
    array = as_values(values)
    scored = [int(i) for i in np.flatnonzero(np.isfinite(array))]
    tau, failing = _failing(array[scored], [row_ids[i] for i in scored], rule)
    if rule.control is Control.RANDOM:
        failing = _drawn(failing, [row_ids[i] for i in scored], rule, standing or {})
    passed: list[bool | None] = [None] * len(array)
    for index, fails in zip(scored, failing, strict=True):
        passed[index] = not fails
    present = array[scored]
    line = Threshold(
        axis=axis,
        signal=signal,
        mean=float(present.mean()) if len(present) else None,
        std=float(present.std()) if len(present) else None,
        m=None,
        tau=tau,
        share=None if rule.threshold is not None else 0.5 if rule.drop_fraction is None else rule.drop_fraction,
        num_tied=0 if tau is None else int((present == tau).sum()),
        num_values=len(present),
        num_excluded=len(array) - len(present),
    )
    return line, passed


def _failing(
    values: NDArray[np.float64], row_ids: Sequence[str], rule: FilterRule
) -> tuple[float | None, NDArray[np.bool_]]:
    """gamma, and which of the scored rows fall below it."""
    if not len(values):
        return None, np.zeros(0, dtype=bool)
    if rule.threshold is not None:
        return rule.threshold, values < rule.threshold
    share = 0.5 if rule.drop_fraction is None else rule.drop_fraction
    most = min(int(share * len(values) + 1e-9), len(values) - 1)  # never all, however close to 1 the share is
    order = in_order(values, row_ids, rule.seed)
    tau = float(np.median(values)) if rule.drop_fraction is None else float(values[order[most]])
    if rule.ties is Ties.RANK:
        return tau, _of(order[:most], len(values))
    return tau, values < tau


def _drawn(
    failing: NDArray[np.bool_], row_ids: Sequence[str], rule: FilterRule, standing: Mapping[str, bool | None]
) -> NDArray[np.bool_]:
    """Of the rows that do not stand as many as are failing, drawn at random; of those that do the same as before."""
    new = [i for i, row_id in enumerate(row_ids) if standing.get(row_id) is None]
    count = int(failing[new].sum())
    drawn = sorted(new, key=lambda i: _draw(rule.seed, f"control/{rule.round_number}", row_ids[i]))[:count]
    before = [i for i, row_id in enumerate(row_ids) if standing.get(row_id) is False]
    return _of([*drawn, *before], len(row_ids))


def in_order(values: Sequence[float] | NDArray[np.float64], row_ids: Sequence[str], seed: int) -> list[int]:
    """The places of all rows, that with the lowest value first; those that tie in an order drawn by seed."""
    return sorted(range(len(values)), key=lambda i: (values[i], _draw(seed, "ties", row_ids[i])))


def _of(chosen: Sequence[int], count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, dtype=bool)
    mask[list(chosen)] = True
    return mask


def _draw(seed: int, purpose: str, row_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{row_id}".encode()).digest()
