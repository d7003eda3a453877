"""CLEAR's decisions (arXiv 2403.12776): every row ends with one action and its reasons. Pure.

    keep      it passed the filter, or the model fine-tuned on what passed says the same
    correct   it failed, and a candidate y' was preferred to y:  P(y' > y) > eta, and more likely in both orders
    drop      it failed, and no candidate was
    unscored  no confidence could be had; kept unless the settings say otherwise

P(y' > y) is p(y' better) + p(tie) / 2, averaged over both orders in which the two are shown. The paper does not say
that it swaps; judges prefer a place and what is longer, so we do, and `swap` turns it off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.filtering import AXIS
from burnish.coordinator.policy.sameness import normal
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.policy.verdict import Action, Unscored, Verdict

_EXACT = 1e-9  # relative: a ratio comes as its logarithm, and back a little off
_MOST_FLIPS = 0.5  # share of comparisons whose winner hangs on the order, from which on they say little


class Scope(StrEnum):
    """For which rows candidates are made."""

    FAILED = "failed"  # those that failed the filter
    ALL = "all"  # every row with a confidence


@dataclass(frozen=True, slots=True)
class CorrectionRules:
    """When a candidate replaces a response. `max_length_ratio`: one with more than so many times the response's words
    cannot win; None for no guard."""

    eta: float = 0.8
    swap: bool = True
    max_length_ratio: float | None = None
    min_covered_mass: float = 0.5


@dataclass(frozen=True, slots=True)
class Preference:
    """How the judge compared a response y with a candidate y': p(y), p(y'), p(tie), first with y in front, then with
    y'. `masses` are what the letters had in each order; `log_length_ratio` is log(words of y' / words of y)."""

    orders: tuple[tuple[float, float, float], tuple[float, float, float]]
    masses: tuple[float, float]
    log_length_ratio: float

    @property
    def flipped(self) -> bool:
        """Whether the two orders named different winners."""
        leads = [candidate - response for response, candidate, _ in self.orders]
        return min(leads) < 0 < max(leads)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One response that was proposed: `sample_hash` names the conversation that ends in it. `rejection` says why it was
    not compared (`same`, `empty`, `truncated`, or why the service failed); `preference` is None then, and where the
    comparison failed, for `rejection`'s reason."""

    number: int
    sample_hash: str | None
    rejection: str = ""
    preference: Preference | None = None


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """All that a decision depends on: the signals, whether the filter was passed (None: unscored), and candidates."""

    row_id: str
    signals: Mapping[str, float]
    passed: bool | None
    candidates: tuple[Candidate, ...] = ()


def rejection_of(response: str, candidate: str, *, truncated: bool) -> str:
    """Why a candidate need not be compared: `empty`, `truncated` or `same`; empty where it must be."""
    if not candidate.strip():
        return "empty"
    if truncated:
        return "truncated"
    return "same" if normal(candidate) == normal(response) else ""


def probability_of_candidate(preference: Preference, *, swap: bool) -> float:
    """P(y' > y), in [0, 1]; without `swap` from the order with the response in front alone. Exchanging y and y' gives
    one minus it."""
    orders = preference.orders if swap else preference.orders[:1]
    return math.fsum(candidate + 0.5 * tie for _, candidate, tie in orders) / len(orders)


def judged(preference: Preference, rules: CorrectionRules) -> tuple[bool, float, str]:
    """Whether the candidate replaces the response, P(y' > y), and why, in words."""
    p = probability_of_candidate(preference, swap=rules.swap)
    masses = preference.masses if rules.swap else preference.masses[:1]
    orders = preference.orders if rules.swap else preference.orders[:1]
    said = f"P(candidate better) {p:.3f}"
    mass = math.fsum(masses) / len(masses)
    if mass < rules.min_covered_mass:
        return False, p, f"{said}, but the letters had only {mass:.2f} of the probability"
    if p <= rules.eta:
        return False, p, f"{said} <= eta {rules.eta:g}"
    if any(candidate <= response for response, candidate, _ in orders):
        return False, p, f"{said}, but not in both orders"
    ratio = math.exp(preference.log_length_ratio)
    if rules.max_length_ratio is not None and ratio > rules.max_length_ratio * (1 + _EXACT):
        return False, p, f"{said}, but it is {ratio:.1f} times as long, more than {rules.max_length_ratio:g}"
    return True, p, f"{said} > eta {rules.eta:g}" + (", in both orders" if rules.swap else "")


def place_notes(flipped: int, compared: int) -> list[str]:
    """A warning where most comparisons were won by the place that a response was shown in."""
    if flipped <= _MOST_FLIPS * compared:
        return []
    return [
        f"in {flipped} of {compared} comparisons the winner changed with the order that the responses were shown in;"
        " the model answers by place more than by content, and so few candidates can win. A larger --model would help."
    ]


def decide(
    rows: Sequence[RowEvidence],
    line: Threshold,
    rules: CorrectionRules,
    *,
    unscored: Unscored = Unscored.KEEP,
    control: Control = Control.NONE,
) -> list[Verdict]:
    """One verdict per row, in order."""
    return [_verdict(row, line, rules, unscored, control) for row in rows]


def _verdict(
    row: RowEvidence, line: Threshold, rules: CorrectionRules, unscored: Unscored, control: Control
) -> Verdict:
    if row.passed is None:
        action = Action.UNSCORED if unscored is Unscored.KEEP else Action.DROP
        return Verdict(row.row_id, (action,), row.signals, (f"No {line.signal} could be had; {unscored} it.",))
    reasons = [_filtered(row, line, control)]
    axes = () if row.passed else (AXIS,)
    best: tuple[float, Candidate] | None = None
    same = False
    for candidate in row.candidates:
        if candidate.preference is None:
            same = same or candidate.rejection == "same"
            reasons.append(_rejected(candidate))
            continue
        wins, p, why = judged(candidate.preference, rules)
        reasons.append(f"Candidate {candidate.number}: {why}.")
        if wins and (best is None or p > best[0]):
            best = (p, candidate)
    signals = dict(row.signals)
    compared = [c.preference for c in row.candidates if c.preference is not None]
    if compared:
        signals["preference"] = max(probability_of_candidate(one, swap=rules.swap) for one in compared)
    if best is not None and best[1].sample_hash is not None:
        hint = (best[1].sample_hash,)
        return Verdict(row.row_id, (Action.CORRECT,), signals, tuple(reasons), hint, axes)
    action = Action.KEEP if row.passed or same else Action.DROP
    return Verdict(row.row_id, (action,), signals, tuple(reasons), axes=axes)


def _filtered(row: RowEvidence, line: Threshold, control: Control) -> str:
    value = row.signals.get(line.signal)
    if control is Control.RANDOM:
        return (
            f"Random control: drawn at random to {'pass' if row.passed else 'fail'}, whatever its {line.signal} says."
        )
    relation = ">=" if value is not None and line.tau is not None and value >= line.tau else "<"
    drawn = ", and drawn among those that tie" if not row.passed and relation == ">=" else ""
    said = f"{line.signal} {value:.3f} {relation} {line.tau:.3f}{drawn}"
    return f"Passed the filter: {said}." if row.passed else f"Failed the filter: {said}."


_WORDS = {
    "same": "says the same as the response",
    "empty": "is empty",
    "truncated": "was cut off before its end",
}


def _rejected(candidate: Candidate) -> str:
    return f"Candidate {candidate.number} {_WORDS.get(candidate.rejection, f'failed: {candidate.rejection}')}."
