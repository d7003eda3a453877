"""What arms won back of what noise costs, over all seeds of a task and a share of noise. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from bench.efficacy.arms import NOISY, ORACLE, control_of
from bench.efficacy.gap import HeldOut, as_told, difference, recovered
from bench.efficacy.record import LOSS, SCORE, Record, held_out_of

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
    """Of one arm: the gap recovered, and its distances from doing nothing and from chance; each None where it cannot be
    told."""
    told: dict[str, Any] = {}
    for what in (LOSS, SCORE):
        held_out = _held_out([NOISY, ORACLE, name], seeds, what)
        noiseless = all(cell["wrong"] == 0 for cell in seeds)
        gap = None if held_out is None or noiseless else recovered(*held_out, higher_is_better=what == SCORE)
        told[what] = as_told(gap)
        for key, peer in (("above_nothing", NOISY), ("above_control", control_of(name))):
            pair = _held_out([name, peer], seeds, what)
            told.setdefault(key, {})[what] = as_told(difference(*pair)) if pair else None
    recovered_share = told[LOSS]["mean"] if told[LOSS] else 0.0
    seconds = [cell["arms"][name]["seconds"] for cell in seeds if name in cell["arms"]]
    told["seconds_per_point"] = fmean(seconds) / (100 * recovered_share) if recovered_share > 0 else None
    return told


def _held_out(names: Sequence[str], seeds: Sequence[Record], what: str) -> list[list[HeldOut]] | None:
    """By arm and seed, of the seeds that have all of them; None where there is none."""
    rows = []
    for cell in seeds:
        known = [arm for name in names if (arm := held_out_of(cell, name, what)) is not None]
        if len(known) == len(names):
            rows.append(known)
    return [list(arm) for arm in zip(*rows, strict=True)] if rows else None
