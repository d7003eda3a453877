"""What collecting is the same for every recipe: rounds, timings, texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish._types import Message, Role
from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import DecisionRecord, StepRecord
from burnish.coordinator.truth import Known
from burnish.report.data import Map, StepTiming

_MOST_POINTS = 3000  # of one group in a map; of more, a seeded part is drawn


@dataclass(frozen=True, slots=True)
class Decided:
    """A round whose rows were decided on, as the ledger has it. `steps`: the whole run's. `known`: by row, what is
    right or wrong with it, where somebody knows."""

    history: RunHistory
    number: int
    num_rows: int
    decisions: Sequence[DecisionRecord]
    steps: Sequence[StepRecord]
    known: Mapping[str, Known]


def measured(one: Decided) -> dict[str, Any]:
    """The fields of a `Round`."""
    thresholds = one.history.thresholds(one.number)
    return {
        "number": one.number,
        "num_rows": one.num_rows,
        "thresholds": thresholds,
        "signals": {t.signal: values_of(one.decisions, t.signal) for t in thresholds},
        "failures": [replace(f, example=short(f.example)) for f in one.history.failures(one.number)],
        "timings": timings_of(step for step in one.steps if step.round == one.number),
    }


def values_of(decisions: Iterable[DecisionRecord], signal: str) -> list[float]:
    """The values of one signal, those that are there."""
    values = (d.signals.get(signal) for d in decisions)
    return [value for value in values if value is not None]


def said_by(messages: Iterable[Message], role: Role) -> str:
    """What one speaker said in a conversation."""
    return "\n\n".join(m.content for m in messages if m.role is role)


def prompt_and_response(messages: Sequence[Message]) -> tuple[str, str]:
    """What the user said in a conversation, and what its last turn says, which is what is judged."""
    return said_by(messages[:-1], Role.USER), messages[-1].content


def timings_of(steps: Iterable[StepRecord], last: int | None = None) -> list[StepTiming]:
    """What steps cost. Those that are of no round say what they are of; `last` is the round of the run's own model."""
    return [
        StepTiming(s.name, s.state, s.total, s.reused, s.seconds, "" if last is None else _part(s.round, last))
        for s in steps
    ]


def _part(number: int, last: int) -> str:
    return "start" if not number else "final" if number <= last else "to compare with"


def short(text: str, limit: int = 160) -> str:
    """A text in one line of at most `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def map_of(one: Decided, groups: Iterable[tuple[str, str]]) -> Map | None:
    """The picture of a round from the ledger; None where there is none. `groups`: for each row to be shown, the hash
    of the sample that it has there and what became of it."""
    places = one.history.places(one.number)
    if not places:
        return None
    found = (step.detail for step in one.steps if (step.round, step.name) == (one.number, "project"))
    detail: Mapping[str, Any] = next(found, {})
    points: dict[str, list[tuple[float, float]]] = {}
    for sample, group in groups:
        if sample in places:
            points.setdefault(group, []).append(places[sample])
    chosen = random.Random(0)
    thinned = {group: p if len(p) <= _MOST_POINTS else chosen.sample(p, _MOST_POINTS) for group, p in points.items()}
    shares = detail.get("variance_shares") or (0.0, 0.0)
    return Map(
        thinned,
        detail.get("method", "pca"),  # the only one when nothing was noted yet
        (float(shares[0]), float(shares[1])),
        len(places),
        detail.get("of", len(places)),
    )
