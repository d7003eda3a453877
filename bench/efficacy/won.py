"""What arms won back of what noise costs, over all seeds of a task and a share of noise. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench.efficacy.arms import NOISY, ORACLE, Kind
from bench.efficacy.gap import Interval, as_told, recovered
from bench.efficacy.record import LOSS, SCORE, Record

Grid = dict[tuple[str, float], list[Record]]


def grid_of(cells: Sequence[Record]) -> Grid:
    """The cells of each task and share of noise."""
    found: Grid = {}
    for cell in cells:
        found.setdefault((cell["task"], cell["noise"]), []).append(cell)
    return found


def arms_of(cells: Sequence[Record]) -> list[str]:
    """All that any of them has."""
    return list(dict.fromkeys(name for cell in cells for name in cell["arms"]))


def gaps(cells: Sequence[Record]) -> dict[str, dict[str, dict[str, Any]]]:
    """By task, share of noise and arm."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, noise), seeds in grid_of(cells).items():
        found.setdefault(task, {})[f"{noise:g}"] = {name: _won_back(name, seeds) for name in arms_of(seeds)}
    return found


def _won_back(name: str, seeds: Sequence[Record]) -> dict[str, Any]:
    """Of one arm: the gap recovered, of losses and of scores, None where it cannot be told; and seconds for each
    hundredth of the former."""
    noiseless = all(cell["wrong"] == 0 for cell in seeds)
    gaps_of = {what: None if noiseless else _gap(name, seeds, what) for what in (LOSS, SCORE)}
    told: dict[str, Any] = {what: as_told(gap) for what, gap in gaps_of.items()}
    told["seconds_per_point"] = _price(name, seeds, gaps_of[LOSS])
    return told


def _price(name: str, seeds: Sequence[Record], gap: Interval | None) -> float | None:
    """Seconds for each hundredth of the gap, where it is shown that any of it was won back."""
    arms = [cell["arms"] for cell in seeds if all(one in cell["arms"] for one in (NOISY, ORACLE, name))]
    if gap is None or gap.low is None or gap.low <= 0 or any(one[name]["kind"] == Kind.CONTROL for one in arms):
        return None
    return fmean(one[name]["seconds"] for one in arms) / (100 * gap.mean)


def _gap(name: str, seeds: Sequence[Record], what: str) -> Interval | None:
    """Of the seeds that have all three models; None where there is none, and of scores where there is one: what noise
    costs may be a single answer there."""
    names = (NOISY, ORACLE, name)
    there = [cell["arms"] for cell in seeds if all(one in cell["arms"] for one in names)]
    measured = [
        [arms[one][what] for one in names] for arms in there if all(arms[one][what] is not None for one in names)
    ]
    if len(measured) < (2 if what == SCORE else 1):
        return None
    noisy, oracle, arm = zip(*measured, strict=True)
    return recovered(noisy, oracle, arm, higher_is_better=what == SCORE)
