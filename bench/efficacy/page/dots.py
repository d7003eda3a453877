"""Dots with whiskers as inline SVG: a line for each arm, what chance does shaded behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.efficacy.page.marks import Mark, mark
from bench.efficacy.page.scale import Scale, around
from bench.efficacy.page.svg import box, line, picture, text

WIDTH, LEFT, RIGHT, TOP, BOTTOM, LINE = 504, 200, 136, 46, 40, 21
_SPAN = 2.5  # times the dots' own range that whiskers are shown of


@dataclass(frozen=True)
class Dot:
    """One arm. `low`, `high`: the whisker's ends, None for none. `shade`: the range that chance has. `told`: the
    figures beside it."""

    label: str
    kind: str
    value: float
    low: float | None
    high: float | None
    shade: tuple[float, float] | None
    told: str


def dot_chart(
    title: str, axis: str, dots: Sequence[Dot], marks: Sequence[Mark], tick: Callable[[float], str]
) -> Markup:
    """The dots from above to below, in order. What reaches far beyond them is cut there, with an arrow head, so that
    one wide interval does not flatten the rest."""
    scale = _scale(dots, marks)
    base = TOP + LINE * len(dots)
    parts = []
    for value in scale.ticks(4):
        parts += [
            line(scale(value), TOP, scale(value), base, "grid"),
            text(scale(value), base + 15, tick(value), anchor="middle"),
        ]
    parts += _compared(scale, marks, base)
    for number, dot in enumerate(dots):
        top = TOP + LINE * number
        if number and dots[number - 1].kind != dot.kind:
            parts.append(line(10, top, WIDTH - 10, top, "grid"))
        parts += _line(scale, dot, top + LINE / 2)
    parts += [
        line(scale.start, base, scale.end, base, "axis"),
        text((scale.start + scale.end) / 2, base + 31, axis, anchor="middle"),
    ]
    return picture(WIDTH, base + BOTTOM, title, "; ".join(f"{dot.label}: {dot.told}" for dot in dots), parts)


def _scale(dots: Sequence[Dot], marks: Sequence[Mark]) -> Scale:
    core = around([*(dot.value for dot in dots), *(one.value for one in marks)], LEFT, WIDTH - RIGHT, room=0)
    spare = (_SPAN - 1) / 2 * (core.high - core.low)
    ends = [end for dot in dots for end in (dot.low, dot.high, *(dot.shade or ())) if end is not None]
    reach = [min(max(end, core.low - spare), core.high + spare) for end in ends]
    return around([core.low, core.high, *reach], LEFT, WIDTH - RIGHT, room=0.04)


def _compared(scale: Scale, marks: Sequence[Mark], base: float) -> list[str]:
    """The lines with their words above; those of the outer two lead away from each other."""
    parts = []
    ordered = sorted(marks, key=lambda one: one.value)
    for one in ordered:
        x = scale(one.value)
        anchor = "middle" if len(ordered) == 1 else "end" if one is ordered[0] else "start"
        at = min(max(x, LEFT - 60), WIDTH - RIGHT + 10) + (-3 if anchor == "end" else 3 if anchor == "start" else 0)
        parts += [
            line(x, TOP - 8, x, base, f"{one.style} line"),
            text(at, TOP - 12, one.label, f"{one.style} word", anchor),
        ]
    return parts


def _line(scale: Scale, dot: Dot, y: float) -> list[str]:
    parts = []
    if dot.shade is not None:
        low, high = scale(dot.shade[0]), scale(dot.shade[1])
        wide = max(high - low, 3.0)
        parts.append(box((low + high - wide) / 2, y - 8, wide, 16, "shade"))
    if dot.low is not None and dot.high is not None:
        style = f"{dot.kind} line"
        parts.append(line(scale(dot.low), y, scale(dot.high), y, style))
        for end, turn in ((dot.low, 1), (dot.high, -1)):
            x = scale(end)
            inside = line(x, y - 3.5, x, y + 3.5, style)
            parts.append(
                inside if scale.holds(end) else f'<path d="M{x:.1f} {y}l{5 * turn} -4v8z" class="{dot.kind}"/>'
            )
    return [
        *parts,
        mark(dot.kind, scale(dot.value), y),
        text(LEFT - 10, y + 4, dot.label, "name", "end"),
        text(WIDTH - 8, y + 4, dot.told, "told", "end"),
    ]
