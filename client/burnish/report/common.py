"""What collecting is the same for every recipe: rounds, timings, texts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from burnish._types import Message, Role
from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import DecisionRecord, StepRecord
from burnish.report.data import Failure, Map, StepTiming, Threshold

_MOST_POINTS = 3000  # of one action in a map; of more, a seeded part is drawn


def measured(
    history: RunHistory, number: int, num_rows: int, decisions: Sequence[DecisionRecord], steps: Iterable[StepRecord]
) -> dict[str, Any]:
    """The fields of a `Round`."""
    thresholds = [
        Threshold(t.signal, t.axis, t.mean, t.std, t.m, t.tau, t.num_values, t.num_excluded)
        for t in history.thresholds(number)
    ]
    return {
        "number": number,
        "num_rows": num_rows,
        "thresholds": thresholds,
        "signals": {t.signal: values_of(decisions, t.signal) for t in thresholds},
        "failures": [Failure(f.step, f.reason, f.count, short(f.example)) for f in history.failures(number)],
        "timings": timings_of(step for step in steps if step.round == number),
    }


def values_of(decisions: Iterable[DecisionRecord], signal: str) -> list[float]:
    """The values of one signal, those that are there."""
    values = (d.signals.get(signal) for d in decisions)
    return [value for value in values if value is not None]


def said_by(messages: Iterable[Message], role: Role) -> str:
    """What one speaker said in a conversation."""
    return "\n\n".join(m.content for m in messages if m.role is role)


def timings_of(steps: Iterable[StepRecord]) -> list[StepTiming]:
    """What steps cost."""
    return [StepTiming(s.name, s.state, s.total, s.reused, s.seconds) for s in steps]


def short(text: str, limit: int = 160) -> str:
    """A text in one line of at most `limit` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def map_of(
    history: RunHistory, number: int, decisions: Sequence[DecisionRecord], steps: Iterable[StepRecord]
) -> Map | None:
    """The picture of a round from the ledger; None where there is none."""
    places = history.places(number)
    shares: Any = next(
        (s.detail.get("variance_shares") for s in steps if (s.round, s.name) == (number, "project")), None
    )
    if not places or not shares:
        return None
    points: dict[str, list[tuple[float, float]]] = {}
    for one in decisions:
        if one.sample_hash in places:
            points.setdefault(one.actions[0], []).append(places[one.sample_hash])
    chosen = random.Random(0)
    thinned = {action: p if len(p) <= _MOST_POINTS else chosen.sample(p, _MOST_POINTS) for action, p in points.items()}
    return Map(thinned, (float(shares[0]), float(shares[1])))
