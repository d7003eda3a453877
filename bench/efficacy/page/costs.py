"""What arms cost against what they win, as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.efficacy.page.marks import Mark, mark
from bench.efficacy.page.scale import Scale, around
from bench.efficacy.page.svg import line, picture, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 504, 330, 56, 40, 34, 42
_HIGH, _LETTER = 12.0, 6.7  # of a name at 11 pixels: its height, and about its width for each letter
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Cost:
    """One arm: seconds, above 0, and what it wins."""

    label: str
    kind: str
    seconds: float
    value: float


def cost_chart(
    title: str, axis: str, costs: Sequence[Cost], marks: Sequence[Mark], tick: Callable[[float], str]
) -> Markup:
    """Seconds from left to right, by their logarithm; what is won upwards."""
    seconds = [one.seconds for one in costs]
    across = Scale(min(seconds) / 1.25, max(seconds) * 1.25, LEFT, WIDTH - RIGHT, log=True)
    down = around([*(one.value for one in costs), *(one.value for one in marks)], HEIGHT - BOTTOM, TOP, room=0.08)
    parts = []
    for value in down.ticks(5):
        parts += [
            line(LEFT, down(value), WIDTH - RIGHT, down(value), "grid"),
            text(LEFT - 6, down(value) + 4, tick(value), anchor="end"),
        ]
    parts += [text(across(value), HEIGHT - BOTTOM + 16, f"{value:,.0f}", anchor="middle") for value in across.ticks(5)]
    for one in marks:
        parts += [
            line(LEFT, down(one.value), WIDTH - RIGHT, down(one.value), f"{one.style} line"),
            text(WIDTH - RIGHT, down(one.value) - 4, one.label, f"{one.style} word", "end"),
        ]
    dots = [(across(one.seconds), down(one.value)) for one in costs]
    parts += [mark(one.kind, *dot) for one, dot in zip(costs, dots, strict=True)]
    parts += _names(costs, dots, [_beside_line(one, down(one.value)) for one in marks])
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, axis, anchor="middle"))
    spoken = "; ".join(f"{one.label}: {one.seconds:,.0f} s, {tick(one.value)}" for one in costs)
    return picture(WIDTH, HEIGHT, title, spoken, parts)


def _names(costs: Sequence[Cost], dots: Sequence[tuple[float, float]], taken: Sequence[Box]) -> list[str]:
    """A name beside each dot where it lies over no dot and no other name; if there is no such place, to its right."""
    boxes = [*taken, *((x - 5, y - 5, x + 5, y + 5) for x, y in dots)]
    parts = []
    for one, (x, y) in sorted(zip(costs, dots, strict=True), key=lambda pair: pair[1][1]):
        wide = _LETTER * len(one.label)
        around_it = [
            (x + side, y + shift - _HIGH / 2, x + side + wide, y + shift + _HIGH / 2)
            for shift in (0.0, -9.0, 9.0, -16.0, 16.0, -24.0, 24.0)
            for side in (8.0, -8.0 - wide, -wide / 2)
            if shift or side != -wide / 2
        ]
        inside = [box for box in around_it if box[0] >= LEFT and box[2] <= WIDTH - 4 and _between(box)]
        free = [box for box in inside if not any(_meet(box, other) for other in boxes)]
        chosen = (free or inside or around_it)[0]
        boxes.append(chosen)
        parts.append(text(chosen[0], chosen[3] - 2, one.label, "name"))
    return parts


def _beside_line(mark: Mark, y: float) -> Box:
    return (WIDTH - RIGHT - _LETTER * len(mark.label), y - 4 - _HIGH, WIDTH - RIGHT, y - 2)


def _between(box: Box) -> bool:
    return box[1] > TOP - 10 and box[3] < HEIGHT - BOTTOM


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
