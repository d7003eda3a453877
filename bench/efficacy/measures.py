"""What weights are worth, given the truth; and numbers over seeds. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from burnish.report.calibration import auroc


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of the sample; 0 for one value) over seeds."""

    mean: float
    deviation: float
    values: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, tuple(values))


def judge_weights(
    weights: Mapping[str, float], kept: Collection[str], flaws: Mapping[str, str], kinds: Sequence[str]
) -> dict[str, float]:
    """Of the rows with a weight: the AUROC against the truth, of all wrong rows and of each kind of flaw; the share of
    all wrong rows that were kept, and the share of wrong rows among what was kept. `flaws`: by row, those of wrong
    ones. What cannot be told is left out."""
    found: dict[str, float | None] = {"AUROC": _against(weights, flaws, kinds)}
    found |= {f"AUROC, {kind}": _against(weights, flaws, [kind]) for kind in kinds}
    wrong_kept = sum(name in flaws for name in kept)
    if flaws:
        found["wrong rows kept"] = wrong_kept / len(flaws)
    if kept:
        found["wrong among kept"] = wrong_kept / len(kept)
    return {name: value for name, value in found.items() if value is not None}


def _against(weights: Mapping[str, float], flaws: Mapping[str, str], kinds: Collection[str]) -> float | None:
    """AUROC of the right rows against those with a flaw of these kinds."""
    told = [(value, name in flaws) for name, value in weights.items() if name not in flaws or flaws[name] in kinds]
    return auroc([value for value, _ in told], [wrong for _, wrong in told])


def differences(losses: Sequence[Mapping[str, float]], arm: str, peer: str) -> list[float]:
    """What `arm` is above `peer`, seed by seed, where both are there."""
    return [one[arm] - one[peer] for one in losses if arm in one and peer in one]
