"""What weights are worth, given the truth; and numbers over seeds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of the sample; 0 for one value) over seeds."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, tuple(values))


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """How often a right row weighs more than a wrong one, equals counted half: in [0, 1], 0.5 for chance. NaN where
    there are none of a kind."""
    if not right or not wrong:
        return float("nan")
    ordered = np.sort(np.asarray(right, dtype=np.float64))
    below = np.searchsorted(ordered, wrong, side="left")
    up_to = np.searchsorted(ordered, wrong, side="right")
    return float(np.mean(1.0 - (below + up_to) / (2.0 * len(ordered))))


def judge_weights(
    weights: Mapping[str, float], kept: Collection[str], flaws: Mapping[str, str], kinds: Sequence[str]
) -> dict[str, float]:
    """Of the rows with a weight: the AUROC against the truth, of all wrong rows and of each kind of flaw; the share of
    all wrong rows that were kept, and the share of wrong rows among what was kept. `flaws`: by row, those of wrong
    ones. What cannot be told is left out."""
    right = [value for name, value in weights.items() if name not in flaws]
    found = {"AUROC": auroc(right, [value for name, value in weights.items() if name in flaws])}
    for kind in kinds:
        of_kind = [value for name, value in weights.items() if flaws.get(name) == kind]
        found[f"AUROC, {kind}"] = auroc(right, of_kind)
    wrong_kept = sum(name in flaws for name in kept)
    if flaws:
        found["wrong rows kept"] = wrong_kept / len(flaws)
    if kept:
        found["wrong among kept"] = wrong_kept / len(kept)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def differences(losses: Sequence[Mapping[str, float]], arm: str, peer: str) -> list[float]:
    """What `arm` is above `peer`, seed by seed, where both are there."""
    return [one[arm] - one[peer] for one in losses if arm in one and peer in one]
