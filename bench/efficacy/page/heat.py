"""Signals against kinds of flaws as inline SVG: a grid of AUROCs, each cell with its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.efficacy.page.svg import box, picture, text

LEFT, TOP, LINE, COLUMN, GAP = 204, 112, 24, 40, 10
_STRONGEST = 0.6  # opacity of a cell at 0 or 1, so that its number stays readable


@dataclass(frozen=True)
class Column:
    """Of one task, one kind of flaw; the values by signal, None where there is none."""

    task: str
    kind: str
    values: Sequence[float | None]


def heat_map(title: str, signals: Sequence[str], columns: Sequence[Column]) -> Markup:
    """A line for each signal, a column for each kind; tasks stand apart. From 0.5 on in one colour, below it, where a
    signal is worse than chance, in another."""
    tasks = list(dict.fromkeys(column.task for column in columns))
    lefts = [LEFT + number * COLUMN + tasks.index(column.task) * GAP for number, column in enumerate(columns)]
    parts = []
    for task in tasks:
        left = next(left for column, left in zip(columns, lefts, strict=True) if column.task == task)
        parts.append(text(left + 2, 42, task, "name strong"))
    for column, left in zip(columns, lefts, strict=True):
        parts.append(text(left + COLUMN / 2 - 5, TOP - 8, column.kind, turn=-32))
    for number, signal in enumerate(signals):
        y = TOP + number * LINE
        parts.append(text(LEFT - 10, y + 16, signal, "name", "end"))
        for column, left in zip(columns, lefts, strict=True):
            parts += _cell(column.values[number], left, y)
    spoken = "; ".join(
        f"{signal}: " + ", ".join(f"{one.task}, {one.kind} {_number(one.values[number])}" for one in columns)
        for number, signal in enumerate(signals)
    )
    return picture(lefts[-1] + COLUMN + 34, TOP + LINE * len(signals) + 12, title, spoken, parts)


def _cell(value: float | None, left: float, y: float) -> list[str]:
    number = text(left + COLUMN / 2, y + 16, _number(value), "name", "middle")
    if value is None:
        return [number]
    depth = f' style="fill-opacity:{2 * abs(value - 0.5) * _STRONGEST:.2f}" rx="3"'
    return [box(left + 1, y + 1, COLUMN - 2, LINE - 2, "above" if value >= 0.5 else "below", depth), number]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
