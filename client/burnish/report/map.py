"""The picture of a set: where its samples lie, coloured by what became of them. Collected, and drawn as inline SVG."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from burnish.coordinator.history import RunHistory
from burnish.coordinator.records import DecisionRecord, StepRecord
from burnish.report.data import Map

WIDTH, HEIGHT = 1060, 560
MARGIN, TOP, BOTTOM = 16, 30, 34
_MOST = 3000  # points of one action; of more, a seeded part is drawn


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
    thinned = {action: p if len(p) <= _MOST else chosen.sample(p, _MOST) for action, p in points.items()}
    return Map(thinned, (float(shares[0]), float(shares[1])))


def drawn(picture: Map, order: Sequence[tuple[str, str]]) -> Markup:
    """Points of each action of `order`, (action, class), the later over the earlier."""
    everything = [point for found in picture.points.values() for point in found]
    low_x, high_x = _range(x for x, _ in everything)
    low_y, high_y = _range(y for _, y in everything)
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - TOP - BOTTOM
    counts = ", ".join(f"{len(picture.points.get(action, ()))} {action}" for action, _ in order)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Map of the set: {counts}">',
        f'<text x="{MARGIN}" y="15" class="title">The set, by the directions in which its vectors differ most</text>',
    ]
    for action, kind in order:
        dots = "".join(
            f'<circle cx="{MARGIN + (x - low_x) / (high_x - low_x) * wide:.1f}"'
            f' cy="{TOP + high - (y - low_y) / (high_y - low_y) * high:.1f}" r="{3.2 if kind == "after" else 2.2}"/>'
            for x, y in picture.points.get(action, ())
        )
        parts.append(f'<g class="{kind}">{dots}</g>')
    shown = " and ".join(f"{share:.0%}" for share in picture.shares)
    parts += [
        f'<text x="{MARGIN}" y="{HEIGHT - 10}" class="tick">first two principal axes: {shown} of the variance; what is'
        " near here may be far apart</text>",
        "</svg>",
    ]
    return Markup("\n".join(parts))


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def maps(pictures: Mapping[int, Map | None], order: Sequence[tuple[str, str]]) -> dict[int, Markup]:
    """The pictures of all rounds that have one."""
    return {number: drawn(picture, order) for number, picture in pictures.items() if picture is not None}
