"""Lines over the share of noise as inline SVG: the few that answer the question thick and named, all others thin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.efficacy.page.scale import Scale, around
from bench.efficacy.page.svg import line as straight
from bench.efficacy.page.svg import picture, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 504, 300, 46, 176, 34, 40
_APART = 13.0  # pixels between two names


@dataclass(frozen=True)
class Line:
    """`points`: share of noise and value, with the standard error or None. `style` is a class of the page's style
    sheet; `name` is empty for a line that stands in the background."""

    name: str
    style: str
    points: Sequence[tuple[float, float, float | None]]


def line_chart(title: str, axis: str, lines: Sequence[Line], digits: int = 2) -> Markup:
    """The later lines over the earlier ones; each named one with the whiskers of one standard error."""
    everything = [value + sign * (error or 0) for one in lines for _, value, error in one.points for sign in (-1, 1)]
    noises = sorted({noise for one in lines for noise, _, _ in one.points})
    down = around(everything, HEIGHT - BOTTOM, TOP)
    across = Scale(noises[0], noises[-1], LEFT + 12, WIDTH - RIGHT)
    parts = []
    for value in down.ticks(5):
        parts += [
            straight(LEFT, down(value), WIDTH - RIGHT, down(value), "grid"),
            text(LEFT - 6, down(value) + 4, f"{value:.{digits}f}", anchor="end"),
        ]
    parts += [text(across(noise), HEIGHT - BOTTOM + 16, f"{noise:.0%}", anchor="middle") for noise in noises]
    for one in lines:
        parts += _drawn(one, across, down)
    named = [one for one in lines if one.name]
    parts += _names(named, across, down)
    parts.append(text((across.start + across.end) / 2, HEIGHT - 8, axis, anchor="middle"))
    spoken = "; ".join(f"{one.name}: {', '.join(f'{value:.{digits}f}' for _, value, _ in one.points)}" for one in named)
    return picture(WIDTH, HEIGHT, title, spoken, parts)


def _drawn(line: Line, across: Scale, down: Scale) -> list[str]:
    points = " ".join(f"{across(noise):.1f},{down(value):.1f}" for noise, value, _ in line.points)
    parts = [f'<polyline points="{points}" class="{line.style} line{"" if line.name else " thin"}"/>']
    if line.name:
        for noise, value, error in line.points:
            x = across(noise)
            parts.append(f'<circle cx="{x:.1f}" cy="{down(value):.1f}" r="3" class="{line.style}"/>')
            if error:
                parts.append(straight(x, down(value - error), x, down(value + error), f"{line.style} line thin"))
    return parts


def _names(lines: Sequence[Line], across: Scale, down: Scale) -> list[str]:
    """At the ends of lines, pushed apart where they would lie over each other."""
    parts = []
    ordered = sorted(lines, key=lambda one: down(one.points[-1][1]))
    places = spaced([down(one.points[-1][1]) for one in ordered], TOP, HEIGHT - BOTTOM)
    for one, y in zip(ordered, places, strict=True):
        x, end = across(one.points[-1][0]), down(one.points[-1][1])
        parts += [
            straight(x + 5, end, x + 13, y, f"{one.style} line thin"),
            text(x + 16, y + 4, one.name, f"{one.style} word"),
        ]
    return parts


def spaced(wanted: Sequence[float], low: float, high: float, apart: float = _APART) -> list[float]:
    """Rising places near to the wanted ones, which rise, each so far from the next, within the bounds if they fit."""
    places: list[float] = []
    for one in wanted:
        places.append(max(one, places[-1] + apart) if places else max(one, low))
    for number in reversed(range(len(places))):
        below = places[number + 1] - apart if number + 1 < len(places) else high
        places[number] = min(places[number], below)
    return places
