"""The picture of a set as inline SVG: where its samples lie, coloured by what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from burnish.report.data import Map

WIDTH, HEIGHT = 1060, 560
MARGIN, TOP, BOTTOM = 16, 30, 34
SMALL, LARGE = 2.6, 3.8  # radius of what is the background, and of what stands out


@dataclass(frozen=True, slots=True)
class Key:
    """How one group of a map is drawn: in which of the page's colours, and what it says beside it."""

    group: str
    color: str
    words: str


@dataclass(frozen=True, slots=True)
class Legend:
    """What a recipe's maps show: its groups, later ones over earlier ones, and what a point is."""

    keys: Sequence[Key]
    about: str


def set_map(picture: Map, keys: Sequence[Key]) -> Markup:
    """The points of each group of `keys`, the later over the earlier; the first is the background."""
    everything = [point for found in picture.points.values() for point in found]
    low_x, high_x = _range(x for x, _ in everything)
    low_y, high_y = _range(y for _, y in everything)
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - TOP - BOTTOM
    counts = ", ".join(f"{len(picture.points.get(key.group, ()))} {key.words}" for key in keys)
    title, below = _words(picture)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Map of the set: {counts}">',
        f'<text x="{MARGIN}" y="15" class="title">{title}</text>',
    ]
    for key in keys:
        dots = "".join(
            f'<circle cx="{MARGIN + (x - low_x) / (high_x - low_x) * wide:.1f}"'
            f' cy="{TOP + high - (y - low_y) / (high_y - low_y) * high:.1f}"'
            f' r="{SMALL if key is keys[0] else LARGE}"/>'
            for x, y in picture.points.get(key.group, ())
        )
        parts.append(f'<g class="dots" style="fill:var(--{key.color})">{dots}</g>')
    parts += [f'<text x="{MARGIN}" y="{HEIGHT - 10}" class="tick">{below}</text>', "</svg>"]
    return Markup("\n".join(parts))


def _words(picture: Map) -> tuple[str, str]:
    """What stands over and under the picture."""
    if picture.method == "umap":
        title = "The set by UMAP: those near to each other have like vectors"
        below = "UMAP by cosine, 15 neighbours; how far groups lie apart, and how wide they are, means little"
    else:
        title = "The set, by the directions in which its vectors differ most"
        shown = " and ".join(f"{share:.0%}" for share in picture.shares)
        below = f"first two principal axes: {shown} of the variance; what is near here may be far apart"
    if picture.num_placed < picture.num_samples:
        below += f"; drawn: {picture.num_placed:,} of {picture.num_samples:,} samples"
    return title, below


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    low, high = min(found), max(found)
    return (low, high) if high > low else (low - 0.5, low + 0.5)
