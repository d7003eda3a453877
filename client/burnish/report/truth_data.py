"""What a report says where it is known which rows are wrong, as plain data; the same for every recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, with its 95% Wilson interval; all None of nothing."""

    part: int
    whole: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SignalAgainst:
    """How well one signal tells wrong rows from right ones. `auroc`: the probability that a right row has the better
    value, which is the higher one or, without `higher_is_right`, the lower; `by_flaw` of the rows with one kind of
    flaw. None where one of the two kinds is missing. `num_wrong` and `num_right` are the rows that have a value."""

    signal: str
    higher_is_right: bool
    auroc: float | None
    by_flaw: Mapping[str, float | None]
    num_wrong: int
    num_right: int


@dataclass(frozen=True, slots=True)
class Found:
    """How what was done to rows agrees with what is wrong: `precision`, of the rows it was done to, those that are
    wrong; `recall`, of the wrong ones, those it was done to."""

    done: str  # dropped | rewritten | dropped or rewritten
    precision: Share
    recall: Share


@dataclass(frozen=True, slots=True)
class FlawOutcome:
    """What became of the rows with one kind of flaw, "" for those without: `touched` were dropped or rewritten."""

    flaw: str
    left: int
    rewritten: int
    dropped: int
    touched: Share


@dataclass(frozen=True, slots=True)
class TruthRound:
    """A round held against what is known, over the rows that still are what the source gave and were judged."""

    number: int
    signals: Sequence[SignalAgainst]
    found: Sequence[Found]
    outcomes: Sequence[FlawOutcome]
