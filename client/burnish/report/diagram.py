"""The reliability diagram as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from burnish.report.data import ReliabilityBin

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 30, 40


def reliability_diagram(bins: Sequence[ReliabilityBin]) -> Markup:
    """Bars: the share of right responses among those of like confidence, over the diagonal where the two agree. A bar's
    number is how many rows it stands for."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    base = TOP + high

    def x_of(value: float) -> float:
        return LEFT + value * wide

    def y_of(value: float) -> float:
        return base - value * high

    spoken = "; ".join(f"{b.low:.1f} to {b.high:.1f}: {b.right:.0%} of {b.count} right" for b in bins)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Reliability. {spoken}">',
        f'<text x="{LEFT}" y="15" class="title">Reliability: share right, by confidence</text>',
    ]
    for mark in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(mark) + 4:.1f}" class="tick" text-anchor="end">{mark:.0%}</text>')
        parts.append(f'<text x="{x_of(mark):.1f}" y="{base + 15}" class="tick" text-anchor="middle">{mark:g}</text>')
    for b in bins:
        x, width = x_of(b.low), x_of(b.high) - x_of(b.low)
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y_of(b.right):.1f}" width="{width - 2:.1f}"'
            f' height="{b.right * high:.1f}" class="after"/>'
        )
        parts.append(
            f'<text x="{x + width / 2:.1f}" y="{min(y_of(b.right), base - 2) - 4:.1f}" class="tick"'
            f' text-anchor="middle">{b.count}</text>'
        )
    parts += [
        f'<line x1="{LEFT}" y1="{base}" x2="{WIDTH - RIGHT}" y2="{base}" class="axis"/>',
        f'<line x1="{x_of(0):.1f}" y1="{y_of(0):.1f}" x2="{x_of(1):.1f}" y2="{y_of(1):.1f}" class="threshold"/>',
        f'<text x="{LEFT + wide / 2}" y="{base + 32}" class="tick" text-anchor="middle">confidence</text>',
        "</svg>",
    ]
    return Markup("\n".join(parts))
