"""Middo's decisions (arXiv 2508.21589): from the signals of every row to what happens to it, and to the next data set.

Pure: standard library and numpy; can be replayed from the ledger. H, S, Q below are the paper's sets:

    H  too hard      L_pre > mu + m sigma  AND  L_post > mu + m sigma     population sigma
    S  sparse        mean cosine to the k nearest < mu - m sigma          population sigma
    Q  low quality   mean of the ratings < mu - m sigma                   sample sigma

With `compat` the published code is followed where our own defaults differ: an unparseable rating is 0, a record in
both H and Q gets two replacements, D' = remain ++ refined(H) ++ new(S) ++ refined(Q), and exact duplicates by
(instruction, output) collapse. Four things are not followed. `remain` is an unordered Python set there; here it
keeps the order of the file, and of records that collapse the first stays. A rewrite that could not be parsed there
went on as a garbage pair; here it is left out, as if filtered. So are refusals, copies, leaked instructions,
repetition and replies that were cut off, which went on there. Response tokens are those of docs/decisions/0002.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.thresholds import Rule, Threshold, above_all, as_values, below

DIMENSIONS = ("clarity", "completeness", "factuality")
TARGETS = ("prompt", "response")
RATINGS = tuple((dimension, target) for dimension in DIMENSIONS for target in TARGETS)


class Axis(StrEnum):
    """What selected a row."""

    HARD = "hard"
    SPARSE = "sparse"
    LOW_QUALITY = "low_quality"


class Action(StrEnum):
    """What is done about a row."""

    KEEP = "keep"
    SIMPLIFY = "simplify"
    IMPROVE = "improve"
    DIVERSIFY = "diversify"


class Overlap(StrEnum):
    """What happens to a row that is both too hard and of low quality."""

    BOTH = "both"  # two replacements, as published
    HARD_FIRST = "hard_first"
    QUALITY_FIRST = "quality_first"


class Unparseable(StrEnum):
    """What a row's quality is where the judge gave no number for some of the six ratings."""

    EXCLUDE = "exclude"  # not known: the row is kept out of mean and deviation, and not selected
    PARTIAL = "partial"  # mean over the dimensions with a number
    ZERO = "zero"  # a missing rating counts as 0, as published


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Everything that decisions depend on besides the signals."""

    axes: frozenset[Axis] = frozenset(Axis)
    loss: Rule = field(default_factory=lambda: Rule(1.0, None, 0))
    sparse: Rule = field(default_factory=lambda: Rule(1.0, None, 0))
    quality: Rule = field(default_factory=lambda: Rule(1.0, None, 1))
    k: int = 2
    overlap: Overlap = Overlap.BOTH
    unparseable: Unparseable = Unparseable.EXCLUDE
    max_rows: int | None = None  # budget for the next data set; only additions are cut, never rows that are there
    control: Control = Control.NONE
    seed: int = 0  # of the random control
    compat: bool = False


@dataclass(frozen=True, slots=True)
class RowSignals:
    """What was measured of one row; None where it could not be. `neighbors` are the nearest other distinct samples,
    (sample_hash, cosine), nearest first; `ratings` has a key for each (dimension, target) asked for."""

    row_id: str
    sample_hash: str
    loss_pre: float | None = None
    loss_post: float | None = None
    neighbors: tuple[tuple[str, float], ...] | None = None
    ratings: Mapping[tuple[str, str], float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to one row, and why. `hints`: for DIVERSIFY, hashes of the samples to show, nearest first."""

    row_id: str
    axes: tuple[Axis, ...]
    actions: tuple[Action, ...]
    signals: Mapping[str, float | None]
    reasons: tuple[str, ...]
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions of one round, one per row in the rows' order, and the lines that were drawn."""

    thresholds: tuple[Threshold, ...]
    decisions: tuple[Decision, ...]


def decide(rows: Sequence[RowSignals], settings: PolicySettings, *, round_number: int = 1) -> Plan:
    """Selects H, S and Q and says what follows for each row. `rows` must not be empty."""
    copies = Counter(row.sample_hash for row in rows)
    nearest = [fold_neighbors(row, copies, settings.k) for row in rows]
    signals = {
        "loss_pre": as_values([row.loss_pre for row in rows]),
        "loss_post": as_values([row.loss_post for row in rows]),
        "mean_cosine": as_values([_mean([cosine for _, cosine in near]) for near in nearest]),
        "quality": as_values([quality(row.ratings, settings.unparseable) for row in rows]),
    }
    thresholds: list[Threshold] = []
    chosen: dict[Axis, NDArray[np.bool_]] = {}
    if Axis.HARD in settings.axes:
        both = {name: signals[name] for name in ("loss_pre", "loss_post")}
        lines, chosen[Axis.HARD] = above_all(Axis.HARD, both, settings.loss)
        thresholds += lines
    if Axis.SPARSE in settings.axes:
        line, chosen[Axis.SPARSE] = below(Axis.SPARSE, "mean_cosine", signals["mean_cosine"], settings.sparse)
        thresholds.append(line)
    if Axis.LOW_QUALITY in settings.axes:
        line, chosen[Axis.LOW_QUALITY] = below(Axis.LOW_QUALITY, "quality", signals["quality"], settings.quality)
        thresholds.append(line)
    lines_by_signal = {line.signal: line for line in thresholds}
    decisions = []
    for index, row in enumerate(rows):
        values = {name: _plain(signals[name][index]) for name in lines_by_signal}
        axes = tuple(axis for axis in Axis if axis in chosen and chosen[axis][index])
        hints = _hints(row, nearest[index], settings)
        decisions.append(_decision(row.row_id, axes, values, lines_by_signal, hints, settings))
    if settings.control is Control.RANDOM:
        decisions = _at_random(decisions, settings.seed, round_number)
    final = _within_budget(decisions, settings.max_rows)
    return Plan(
        tuple(thresholds),
        tuple(d if Action.DIVERSIFY in d.actions or not d.hints else replace(d, hints=()) for d in final),
    )


def recall_note(recall: float, num_queries: int) -> str:
    """What a reader should know of neighbours that were not sought among all."""
    return (
        f"Of the true nearest neighbours {recall:.1%} were found, measured on {num_queries} samples: there are too many"
        " to compare each with all."
    )


def fold_neighbors(row: RowSignals, copies: Mapping[str, int], k: int) -> tuple[tuple[str, float], ...]:
    """The k nearest rows, given the nearest distinct samples: a row's own copies come first with cosine 1, and a
    neighbour that stands in the data c times counts c times. Empty where nothing is known."""
    if row.neighbors is None:
        return ()
    near = [(row.sample_hash, 1.0)] * (copies[row.sample_hash] - 1)
    for sample_hash, cosine in row.neighbors:
        if len(near) >= k:
            break
        near += [(sample_hash, cosine)] * copies.get(sample_hash, 1)
    return tuple(near[:k])


def quality(ratings: Mapping[tuple[str, str], float | None], unparseable: Unparseable) -> float | None:
    """q = mean over dimensions of (prompt rating + response rating) / 2, in [0, 10]; None where it is not known."""
    if not ratings:
        return None
    by_dimension = []
    for dimension in DIMENSIONS:
        pair = [ratings.get((dimension, target)) for target in TARGETS]
        if unparseable is Unparseable.ZERO:
            pair = [0.0 if value is None else value for value in pair]
        numbers = [value for value in pair if value is not None]
        if len(numbers) < len(pair) and unparseable is Unparseable.EXCLUDE:
            return None
        if numbers:
            by_dimension.append(sum(numbers) / len(numbers))
    return _mean(by_dimension)


def _decision(
    row_id: str,
    axes: tuple[Axis, ...],
    values: Mapping[str, float | None],
    lines: Mapping[str, Threshold],
    hints: tuple[str, ...],
    settings: PolicySettings,
) -> Decision:
    actions: list[Action] = []
    reasons: list[str] = []
    if Axis.HARD in axes:
        reasons.append(f"Too hard: {_beyond('loss_pre', values, lines)}, and {_beyond('loss_post', values, lines)}.")
    if Axis.LOW_QUALITY in axes:
        reasons.append(f"Low quality: {_beyond('quality', values, lines)}.")
    if Axis.SPARSE in axes:
        reasons.append(f"Sparse: {_beyond('mean_cosine', values, lines)}.")
    twice = Axis.HARD in axes and Axis.LOW_QUALITY in axes
    if Axis.HARD in axes and not (twice and settings.overlap is Overlap.QUALITY_FIRST):
        actions.append(Action.SIMPLIFY)
    if Axis.LOW_QUALITY in axes and not (twice and settings.overlap is Overlap.HARD_FIRST):
        actions.append(Action.IMPROVE)
    if twice and settings.overlap is not Overlap.BOTH:
        reasons.append(f"Both too hard and of low quality: only {actions[0]} is done ({settings.overlap}).")
    if Axis.SPARSE in axes:
        actions.append(Action.DIVERSIFY)
    missing = [name for name, value in values.items() if value is None]
    if missing:
        reasons.append(f"Not known, so not judged by it: {', '.join(missing)}.")
    if not actions:
        actions.append(Action.KEEP)
        reasons.insert(0, "Kept: beyond no threshold.")
    return Decision(row_id, axes, tuple(actions), values, tuple(reasons), hints)


_WORDS = {
    "loss_pre": ("loss before training", ">", "+"),
    "loss_post": ("loss after training", ">", "+"),
    "mean_cosine": ("mean cosine to the nearest", "<", "-"),
    "quality": ("quality", "<", "-"),
}


def _beyond(signal: str, values: Mapping[str, float | None], lines: Mapping[str, Threshold]) -> str:
    """The comparison that selected a row, with its numbers."""
    words, relation, sign = _WORDS[signal]
    line, value = lines[signal], values[signal]
    return (
        f"{words} {value:.3f} {relation} {line.tau:.3f} (mean {line.mean:.3f} {sign} {line.m:.3g} x std {line.std:.3f})"
    )


def _hints(row: RowSignals, nearest: Sequence[tuple[str, float]], settings: PolicySettings) -> tuple[str, ...]:
    """What a new row is inspired by: the k nearest distinct samples; copies count as published only in compat."""
    if settings.compat:
        return tuple(sample_hash for sample_hash, _ in nearest)
    return tuple(sample_hash for sample_hash, _ in (row.neighbors or ())[: settings.k])


def _at_random(decisions: Sequence[Decision], seed: int, round_number: int) -> list[Decision]:
    """The random control: every selected row's actions go to a row drawn at random, without replacement. The draw
    depends on seed, round and row ids only. A new row needs hints, so where one is asked for, only rows with known
    neighbours take part, if there are enough."""
    donors = [decision for decision in decisions if decision.actions != (Action.KEEP,)]
    needs_hints = any(Action.DIVERSIFY in donor.actions for donor in donors)
    pool = [decision for decision in decisions if decision.hints] if needs_hints else list(decisions)
    if len(pool) < len(donors):
        pool = list(decisions)

    def rank(decision: Decision) -> bytes:
        return hashlib.sha256(f"{seed}/{round_number}/control/{decision.row_id}".encode()).digest()

    drawn = {row.row_id: donor for row, donor in zip(sorted(pool, key=rank), donors, strict=False)}
    result = []
    for row in decisions:
        donor = drawn.get(row.row_id)
        if donor is None:
            reason = "Random control: not drawn."
            result.append(replace(row, axes=(), actions=(Action.KEEP,), reasons=(reason,)))
        else:
            axes = ", ".join(donor.axes)
            reason = f"Random control: drawn at random to be treated as {axes}, whatever its own signals say."
            result.append(replace(row, axes=donor.axes, actions=donor.actions, reasons=(reason,)))
    return result


def _within_budget(decisions: Sequence[Decision], max_rows: int | None) -> list[Decision]:
    """Cuts additions, the least sparse first, so that the next data set has at most `max_rows` rows. A second
    replacement goes before any new row; rows that are there already always stay."""
    result = list(decisions)
    if max_rows is None:
        return result
    replacing = {Action.SIMPLIFY, Action.IMPROVE}
    second = [i for i, d in enumerate(result) if replacing <= set(d.actions)]
    sparse = [i for i, d in enumerate(result) if Action.DIVERSIFY in d.actions]
    sparse.sort(key=lambda i: (value if (value := result[i].signals.get("mean_cosine")) is not None else 1.0, i))
    room = max(0, max_rows - len(result))
    for rank, index in enumerate([*sparse, *second]):
        if rank < room:
            continue
        decision = result[index]
        cut = Action.DIVERSIFY if rank < len(sparse) else Action.IMPROVE
        actions = tuple(action for action in decision.actions if action is not cut) or (Action.KEEP,)
        reason = f"No row is added by {cut}: the budget of {max_rows} rows is spent."
        result[index] = replace(decision, actions=actions, reasons=(*decision.reasons, reason))
    return result


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
