"""Where the line is drawn on a signal: mean ± m standard deviations, or wherever a wanted share falls. Pure.

Values that are missing or not finite are kept out of every moment, never selected, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one axis draws its line: `m` standard deviations from the mean, or, with `share` in (0, 1], wherever at
    most that share of all rows lies beyond it. `ddof` is 0 for the population's deviation, 1 for the sample's."""

    m: float = 1.0
    share: float | None = None
    ddof: int = 0


@dataclass(frozen=True, slots=True)
class Threshold:
    """The line on one signal and the moments it came from; None where there were too few finite values."""

    axis: str
    signal: str
    mean: float | None
    std: float | None
    m: float | None
    tau: float | None
    share: float | None
    num_tied: int  # with a share: rows left out because they tie at the line
    num_values: int
    num_excluded: int


def as_values(values: Sequence[float | None]) -> Values:
    """Missing and infinite values become NaN."""
    array = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def outlier_line(values: Sequence[float], deviations: float, least: float = 0.0) -> float | None:
    """The value that lies so many robust deviations (> 0) below the median of finite `values` (n,), in their unit, and
    no less than `least` (>= 0); None without values. A deviation is 1.4826 times the median distance from the median,
    or where most values are the same 1.2533 times the mean distance, which for normal values are their standard
    deviation. (Iglewicz and Hoaglin, 1993: modified z-scores, of which those beyond 3.5 are called outliers.)"""
    if not len(values):
        return None
    middle = float(np.median(values))
    distances = np.abs(np.asarray(values) - middle)
    deviation = 1.4826 * float(np.median(distances)) or 1.2533 * float(distances.mean())
    return middle - max(deviations * deviation, least)


def above_all(axis: str, signals: dict[str, Values], rule: Rule) -> tuple[list[Threshold], NDArray[np.bool_]]:
    """Rows strictly above mean + m·std on every one of `signals`, which share one m (shape (n,) each)."""
    moments = {name: _moments(values, rule.ddof) for name, values in signals.items()}
    known = [bounds for bounds in moments.values() if bounds is not None]
    m, tied = rule.m, 0
    if rule.share is not None and len(known) == len(signals):
        # Rows are ranked by how many deviations they lie out on their nearer signal: min(z_pre, z_post).
        ranks = np.min([_z(values, *moments[name]) for name, values in signals.items()], axis=0)  # type: ignore[misc]
        m, tied = _cut(ranks, rule.share)
    selected = np.ones(len(next(iter(signals.values()))), dtype=np.bool_)
    thresholds = []
    for name, values in signals.items():
        threshold = _threshold(axis, name, values, moments[name], m, +1.0, rule, tied)
        with np.errstate(invalid="ignore"):
            selected &= values > (np.inf if threshold.tau is None else threshold.tau)
        thresholds.append(threshold)
    return thresholds, selected


def below(axis: str, signal: str, values: Values, rule: Rule) -> tuple[Threshold, NDArray[np.bool_]]:
    """Rows strictly below mean − m·std on one signal (shape (n,))."""
    moments = _moments(values, rule.ddof)
    m, tied = rule.m, 0
    if rule.share is not None and moments is not None:
        m, tied = _cut(-_z(values, *moments), rule.share)
    threshold = _threshold(axis, signal, values, moments, m, -1.0, rule, tied)
    with np.errstate(invalid="ignore"):
        selected = values < (-np.inf if threshold.tau is None else threshold.tau)
    return threshold, selected


def _moments(values: Values, ddof: int) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    if len(finite) <= ddof:
        return None
    if finite.min() == finite.max():  # rounding would put the mean beside them
        return float(finite[0]), 0.0
    return float(np.mean(finite)), float(np.std(finite, ddof=ddof))


def _z(values: Values, mean: float, std: float) -> Values:
    return (values - mean) / std if std > 0 else np.where(np.isfinite(values), 0.0, np.nan)


def _cut(ranks: Values, share: float) -> tuple[float, int]:
    """The m beyond which at most `share` of all rows lie, halfway between the last row in and the first one out; and
    how many rows stay out because they tie with that one."""
    wanted = int(share * len(ranks) + 1e-9)
    order = np.sort(ranks[np.isfinite(ranks)])[::-1]
    if wanted >= len(order):
        return (float(order[-1]) - 1.0, 0) if len(order) else (0.0, 0)
    first_out = float(order[wanted])
    inside = order[order > first_out]
    tied = wanted - len(inside)
    return (float((inside[-1] + first_out) / 2) if len(inside) else first_out + 1.0), tied


def _threshold(
    axis: str,
    signal: str,
    values: Values,
    moments: tuple[float, float] | None,
    m: float,
    side: float,
    rule: Rule,
    tied: int,
) -> Threshold:
    num_values = int(np.isfinite(values).sum())
    excluded = len(values) - num_values
    if moments is None:
        return Threshold(axis, signal, None, None, None, None, rule.share, 0, num_values, excluded)
    mean, std = moments
    return Threshold(axis, signal, mean, std, m, mean + side * m * std, rule.share, tied, num_values, excluded)
