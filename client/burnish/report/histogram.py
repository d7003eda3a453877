"""Histograms as inline SVG, drawn here so that the report needs no script and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 520, 204
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 40, 30
NUM_BINS = 36


@dataclass(frozen=True, slots=True)
class Series:
    """One distribution; `style` is a CSS class of the report's style sheet (`before` or `after`)."""

    label: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True, slots=True)
class Line:
    """A vertical line at `value`, such as a threshold."""

    label: str
    value: float
    style: str


def histogram(title: str, unit: str, series: Sequence[Series], lines: Sequence[Line] = ()) -> Markup:
    """An SVG element that shows each series' counts over shared bins, and the lines with their values.

    Values beyond the 0.5th and 99.5th percentile are counted in the outermost bins, so that one outlier does not
    flatten the rest; thresholds are always inside the picture. Returns a sentence instead where there is no value.
    """
    finite = [np.asarray([v for v in s.values if np.isfinite(v)], dtype=float) for s in series]
    everything = np.concatenate(finite) if finite else np.empty(0)
    if everything.size == 0:
        return Markup('<p class="nothing">{}: no finite value.</p>').format(title)
    low, high = (float(x) for x in np.percentile(everything, [0.5, 99.5]))
    low, high = min([low, *(x.value for x in lines)]), max([high, *(x.value for x in lines)])
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, NUM_BINS + 1)
    counts = [np.histogram(np.clip(v, low, high), bins=edges)[0] for v in finite]
    top = max(1, max(int(c.max()) for c in counts))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(value: float) -> float:
        return LEFT + (value - low) / (high - low) * plot_width

    base = TOP + plot_height
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(title, series, lines))}">',
        f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>',
        f'<text x="{LEFT - 5}" y="{TOP + 8}" class="tick" text-anchor="end">{top}</text>',
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}" class="axis"/>',
    ]
    bar = plot_width / NUM_BINS
    for one, tally in zip(series, counts, strict=True):
        for index, count in enumerate(tally):
            if count:
                height = count / top * plot_height
                parts.append(
                    f'<rect x="{LEFT + index * bar + 0.5:.1f}" y="{base - height:.1f}" width="{bar - 1:.1f}" '
                    f'height="{height:.1f}" class="{one.style}"/>'
                )
    for value, anchor in ((low, "start"), ((low + high) / 2, "middle"), (high, "end")):
        parts.append(
            f'<text x="{x_of(value):.1f}" y="{base + 13}" class="tick" text-anchor="{anchor}">{value:.3g}</text>'
        )
    parts.append(
        f'<text x="{LEFT + plot_width / 2}" y="{base + 26}" class="tick" text-anchor="middle">{escape(unit)}</text>'
    )
    for index, line in enumerate(lines):
        x = x_of(line.value)
        anchor, shift = ("start", 4) if x < LEFT + plot_width * 0.66 else ("end", -4)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 16}" x2="{x:.1f}" y2="{base}" class="{line.style}"/>')
        parts.append(
            f'<text x="{x + shift:.1f}" y="{TOP - 7 - 13 * index}" class="tick strong" text-anchor="{anchor}">'
            f"{escape(line.label)} {line.value:.3g}</text>"
        )
    parts.append("</svg>")
    return Markup("\n".join(parts))


def _spoken(title: str, series: Sequence[Series], lines: Sequence[Line]) -> str:
    described = [f"{s.label}: {len(s.values)} values" for s in series]
    described += [f"{line.label} at {line.value:.3g}" for line in lines]
    return f"{title}. " + "; ".join(described)
