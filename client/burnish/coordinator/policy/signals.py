"""What is measured of a row, as one number by which rows are ranked; and what follows for every row. Pure.

**Higher is always better to keep**: of losses the negative is taken. x is the prompt, y the response, n its number of
tokens, theta the base model, theta_-k a model trained from it on the rows of all folds but the row's own
(and on rows that are known to be right, where some are given), or on these alone.

    length      n
    loss        (1/n) log p(y|x; theta)                                   the perplexity filter
    total_loss  log p(y|x; theta)
    weakest     min_t log p(y_t|x, y_<t; theta)
    ifd         IFD where IFD < 1, else -IFD;  IFD = L(y|x) / L(y)        Li et al., arXiv 2308.12032, eq. 4
    pmi         (1/n) [log p(y|x; theta) - log p(y; theta)]
    cross_loss     (1/n) log p(y|x; theta_-k)
    cross_gain     (1/n) [log p(y|x; theta_-k) - log p(y|x; theta)]
    cross_weakest  min_t log p(y_t|x, y_<t; theta_-k)
    calibrated     log odds of a trusted row against one of the data, by what theta makes of both (`calibrated.py`)

Those from cross_loss on are our derivation: the loss of cross-validation, what of a row can be learnt from other rows,
its token that departs most from what the others teach, and several measures as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median

from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.filtering import FilterRule, Ties, filter_rows, in_order
from burnish.coordinator.policy.thresholds import Threshold, outlier_line
from burnish.coordinator.policy.verdict import Action, Unscored, Verdict

AXIS = "low_value"
LEAST_WEIGHT = 0.25  # of the last kept row, against 1 of the first
_LEAST_PROBABILITY = 5e-324  # of a double; a token below it is one of 744 nats


class Signal(StrEnum):
    """What rows are ranked by."""

    LENGTH = "length"
    LOSS = "loss"
    TOTAL_LOSS = "total_loss"
    WEAKEST = "weakest"
    IFD = "ifd"
    PMI = "pmi"
    CROSS_LOSS = "cross_loss"
    CROSS_GAIN = "cross_gain"
    CROSS_WEAKEST = "cross_weakest"
    CALIBRATED = "calibrated"

    @property
    def needs_unconditional(self) -> bool:
        """Whether the responses must be scored without their prompts, too."""
        return self in (Signal.IFD, Signal.PMI)

    @property
    def needs_folds(self) -> bool:
        """Whether models are needed that did not see the row."""
        return self in (Signal.CROSS_LOSS, Signal.CROSS_GAIN, Signal.CROSS_WEAKEST)

    @property
    def least_apart(self) -> float:
        """How far below the median an outlier is at least: where a token is measured, it is a hundred times less
        likely. Of clean rows some lie many deviations below the others, for these deviations are small."""
        return math.log(100) if self in (Signal.WEAKEST, Signal.CROSS_WEAKEST) else 0.0

    @property
    def learns_from_trusted(self) -> bool:
        """Whether trusted rows, where there are some, have a part in what rows are measured by."""
        return self.needs_folds or self is Signal.CALIBRATED


@dataclass(frozen=True, slots=True)
class Features:
    """What was measured of one row; losses in nats, per response token but for sums. None: not asked for, or not to be
    had. `max_nll` is the loss of the least likely token. With `cross_` under the model that did not see the row.
    `calibrated_odds`: nats."""

    num_tokens: float | None = None
    mean_nll: float | None = None
    sum_nll: float | None = None
    max_nll: float | None = None
    mean_probability: float | None = None
    unconditional_nll: float | None = None
    ifd_ratio: float | None = None
    pmi_mean: float | None = None
    cross_mean_nll: float | None = None
    cross_sum_nll: float | None = None
    cross_max_nll: float | None = None
    cross_mean_probability: float | None = None
    calibrated_odds: float | None = None

    def known(self) -> dict[str, float]:
        """By name, those that are there and finite: a decision's signals are kept as JSON."""
        return {
            name: float(value) for name, value in asdict(self).items() if value is not None and math.isfinite(value)
        }


@dataclass(frozen=True, slots=True)
class Scored:
    """A row with what its decision depends on: the value of its signal, None where it has none, and what was measured.
    `why` says why there is no value; `fold` is the model, from 1, that measured it without having seen it; 0:
    one of trusted rows alone, or none."""

    row_id: str
    value: float | None
    features: Features
    why: str = ""
    fold: int = 0


def weakest_nll(min_probability: float | None) -> float | None:
    """The loss of the least likely token, nats."""
    return None if min_probability is None else -math.log(max(min_probability, _LEAST_PROBABILITY))


def value_of(signal: Signal, row: Features) -> float | None:
    """The value of a signal that a row has by itself; None where what it is made of is not there, or not finite."""
    value = _FORMULAS[signal](row)
    return value if value is not None and math.isfinite(value) else None


def among_neighbours(values: Mapping[str, float | None], near: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """By name of a row, how far its value is above the median of its neighbours' (`near`), so that a kind of rows that
    is hard does not go as a whole; our derivation. None for one without a value, or whose neighbours have none."""
    found: dict[str, float | None] = {}
    for name, value in values.items():
        others = [other for one in near.get(name, ()) if (other := values.get(one)) is not None]
        found[name] = value - median(others) if value is not None and others else None
    return found


def _ifd(row: Features) -> float | None:
    ratio = row.ifd_ratio
    return None if ratio is None else ratio if ratio < 1 else -ratio


def _gain(row: Features) -> float | None:
    return None if row.mean_nll is None or row.cross_mean_nll is None else row.mean_nll - row.cross_mean_nll


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


_FORMULAS: Mapping[Signal, Callable[[Features], float | None]] = {
    Signal.LENGTH: lambda row: row.num_tokens,
    Signal.LOSS: lambda row: _negative(row.mean_nll),
    Signal.TOTAL_LOSS: lambda row: _negative(row.sum_nll),
    Signal.WEAKEST: lambda row: _negative(row.max_nll),
    Signal.IFD: _ifd,
    Signal.PMI: lambda row: row.pmi_mean,
    Signal.CROSS_LOSS: lambda row: _negative(row.cross_mean_nll),
    Signal.CROSS_GAIN: _gain,
    Signal.CROSS_WEAKEST: lambda row: _negative(row.cross_max_nll),
    Signal.CALIBRATED: lambda row: row.calibrated_odds,
}


def rank_rows(
    signal: Signal,
    rows: Sequence[Scored],
    keep: float,
    seed: int,
    unscored: Unscored = Unscored.KEEP,
    among: int = 0,
    outliers: float | None = None,
) -> tuple[Threshold, list[Verdict]]:
    """The line, and a verdict for each row, in order: of the n rows with a value the n - int((1 - `keep`) · n) best are
    kept; those that tie at the line by seed. `outliers`: instead, all are but those below `outlier_line`. `among`:
    values are above the median of so many neighbours'; 0: alone."""
    ids = [row.row_id for row in rows]
    threshold = None
    if outliers is not None:
        known_values = [row.value for row in rows if row.value is not None]
        threshold = outlier_line(known_values, outliers, signal.least_apart)
    rule = FilterRule(threshold, 1 - keep, Ties.RANK, seed=seed)
    line, passed = filter_rows(signal.value, ids, [row.value for row in rows], rule, axis=AXIS)
    have = [row for row in rows if row.value is not None]
    order = in_order([row.value or 0.0 for row in have], [row.row_id for row in have], seed)
    rank = {have[index].row_id: place for place, index in enumerate(reversed(order), start=1)}
    num_kept = sum(value is True for value in passed)
    found = []
    for row, passes in zip(rows, passed, strict=True):
        known = row.features.known()
        if passes is None:
            action = Action.UNSCORED if unscored is Unscored.KEEP else Action.DROP
            why = f" ({row.why})" if row.why else ""
            reason = f"No {_said(signal)} could be had{why}; {unscored} it."
            found.append(Verdict(row.row_id, (action,), known, (reason,)))
            continue
        assert row.value is not None
        by = f"{_said(signal)} ({row.value:.4f})"
        if among:
            where = "above" if row.value >= 0 else "below"
            by = f"{_said(signal)}, {abs(row.value):.4f} {where} the median of its {among} neighbours"
        reason = f"Number {rank[row.row_id]} of {len(have)} by {by}; {num_kept} are kept."
        signals = {signal.value: row.value, "rank": float(rank[row.row_id]), **known}
        action, axes = (Action.KEEP, ()) if passes else (Action.DROP, (AXIS,))
        found.append(Verdict(row.row_id, (action,), signals, (reason, *_notes(signal, row)), axes=axes))
    return line, found


def trusted_verdict(row: DataRow) -> Verdict:
    """What becomes of a row whose prompt is a trusted row's."""
    return Verdict(row.row_id, (Action.TRUSTED,), {}, ("A trusted row asks the same; it is not trained on.",))


def rank_weights(values: Mapping[str, float | None]) -> dict[str, float]:
    """What each kept row counts while it is trained on, by name: with its rank falling on a line from 1 for the best
    value to LEAST_WEIGHT for the worst, over the mean of that, so that the mean is 1. Rows that tie share the mean of
    their ranks; one without a value counts 1. Our derivation."""
    known = {name: value for name, value in values.items() if value is not None}
    ranked = sorted(known, key=lambda name: -known[name])
    weights = dict.fromkeys(values, 1.0)
    last, mean = len(ranked) - 1, (1 + LEAST_WEIGHT) / 2
    start = 0
    while last > 0 and start <= last:
        end = start
        while end < last and known[ranked[end + 1]] == known[ranked[start]]:
            end += 1
        place = (start + end) / 2
        for name in ranked[start : end + 1]:
            weights[name] = (1 - (1 - LEAST_WEIGHT) * place / last) / mean
        start = end + 1
    return weights


def _said(signal: Signal) -> str:
    return signal.value.replace("_", " ")


def _notes(signal: Signal, row: Scored) -> list[str]:
    """What else a reader should know of a row's value."""
    features = row.features
    if signal is Signal.IFD and features.ifd_ratio is not None and features.ifd_ratio >= 1:
        return [f"Its IFD is {features.ifd_ratio:.3f}: with its prompt the response is no likelier than without."]
    if signal.needs_folds and features.cross_mean_nll is not None:
        before = "" if features.mean_nll is None else f" {features.mean_nll:.3f} under the base model,"
        model = f"that of fold {row.fold}" if row.fold else "that of the trusted rows"
        return [f"Its loss is{before} {features.cross_mean_nll:.3f} under {model}, which did not see it."]
    return []
