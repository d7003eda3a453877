"""How well signals and decisions agree with what is known to be wrong. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from burnish.coordinator.policy.filtering import AXIS
from burnish.coordinator.policy.sameness import normal
from burnish.coordinator.policy.verdict import Action
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.truth import Known
from burnish.report.data import ActionsByTruth, Calibration, ReliabilityBin

NUM_BINS = 10
_PROBABILITIES = ("confidence", "consistency", "reflection", "likelihood")


def auroc(values: Sequence[float], wrong: Sequence[bool]) -> float | None:
    """P(a right response has the higher value) + P(they tie) / 2 over all pairs of a right and a wrong one; None where
    one of the two kinds is missing."""
    num_wrong = sum(wrong)
    num_right = len(wrong) - num_wrong
    if not num_wrong or not num_right:
        return None
    _, place, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # those that tie share the mean of their ranks
    of_right = float(ranks[~np.asarray(wrong)].sum())
    return (of_right - num_right * (num_right + 1) / 2) / (num_right * num_wrong)


def reliability(values: Sequence[float], wrong: Sequence[bool]) -> tuple[list[ReliabilityBin], float | None]:
    """Bins of equal width over [0, 1], empty ones left out, and the expected calibration error: the mean distance of
    confidence and share right, by rows."""
    members: dict[int, list[int]] = {}
    for index, value in enumerate(values):
        members.setdefault(min(NUM_BINS - 1, int(value * NUM_BINS)), []).append(index)
    bins = [
        ReliabilityBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            count=len(indices),
            mean=math.fsum(values[i] for i in indices) / len(indices),
            right=sum(not wrong[i] for i in indices) / len(indices),
        )
        for number, indices in sorted(members.items())
    ]
    error = math.fsum(b.count * abs(b.mean - b.right) for b in bins) / len(values) if values else None
    return bins, error


def calibrate(
    decisions: Sequence[DecisionRecord], known: Mapping[str, Known], signal: str, corrected: Mapping[str, str]
) -> Calibration | None:
    """The rows that still are what the source gave, against what is known; None where nothing is. `signal` is what the
    filter went by, `corrected` has the new response of each row that got one."""
    rows = [(d, known[d.row_id]) for d in decisions if d.origin == "source" and d.row_id in known]
    if not rows:
        return None
    failed = [one for d, one in rows if AXIS in d.axes]
    caught, num_wrong = sum(bool(one.flaw) for one in failed), sum(bool(one.flaw) for _, one in rows)
    pairs = [(value, bool(one.flaw)) for d, one in rows if (value := d.signals.get(signal)) is not None]
    bins, error = reliability(*_apart(pairs)) if signal in _PROBABILITIES else ([], None)
    harmed = [d for d, one in rows if not one.flaw and _harms(d, one, corrected)]
    return Calibration(
        precision=caught / len(failed) if failed else None,
        recall=caught / num_wrong if num_wrong else None,
        by_truth=[_actions(flaw, rows, corrected) for flaw in sorted({one.flaw for _, one in rows})],
        harmed=len(harmed),
        num_right=len(rows) - num_wrong,
        bins=bins,
        calibration_error=error,
    )


def _apart(pairs: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [value for value, _ in pairs], [wrong for _, wrong in pairs]


def _harms(decision: DecisionRecord, known: Known, corrected: Mapping[str, str]) -> bool:
    """Whether a right response is gone: dropped, or replaced by another one than is known to be right."""
    if decision.actions[0] == Action.DROP:
        return True
    return decision.actions[0] == Action.CORRECT and not _equal(decision.row_id, known, corrected)


def _equal(row_id: str, known: Known, corrected: Mapping[str, str]) -> bool:
    return known.response is not None and normal(corrected.get(row_id, "")) == normal(known.response)


def _actions(flaw: str, rows: Sequence[tuple[DecisionRecord, Known]], corrected: Mapping[str, str]) -> ActionsByTruth:
    members = [(d, one) for d, one in rows if one.flaw == flaw]
    told = [(d, one) for d, one in members if d.actions[0] == Action.CORRECT and one.response is not None]
    equal = sum(_equal(d.row_id, one, corrected) for d, one in told)
    counts = Counter(d.actions[0] for d, _ in members)
    known = any(one.response is not None for _, one in members)
    return ActionsByTruth(flaw or "none", len(members), counts, equal if known else None, len(told))
