"""The picture of a set as inline SVG: where its samples lie, coloured by what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from burnish.report.data import Map

WIDTH, HEIGHT = 1060, 560
MARGIN, TOP, BOTTOM = 16, 30, 34


def set_map(picture: Map, order: Sequence[tuple[str, str]]) -> Markup:
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
