"""Coverage curves as inline SVG: what the beginnings of a selection cover, over random ones."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from burnish.report.data import Curve

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 40


def coverage_chart(title: str, field: str, curve: Curve, chance: Sequence[Curve]) -> Markup:
    """One quantity (`value` or `num_features`) by number of picks: the selection as a thick line, random ones thin."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most = max((float(value) for one in (curve, *chance) for value in getattr(one, field)), default=0.0) or 1.0
    last = max(curve.num_selected[-1] if curve.num_selected else 0, 1)

    def points(one: Curve) -> str:
        pairs = zip(one.num_selected, getattr(one, field), strict=True)
        return " ".join(f"{LEFT + n / last * wide:.1f},{TOP + high - float(v) / most * high:.1f}" for n, v in pairs)

    ends = [getattr(one, field)[-1] for one in chance if getattr(one, field)]
    reached = getattr(curve, field)[-1] if getattr(curve, field) else 0
    spoken = f"{title}: {reached:,.0f} with the selection"
    if ends:
        spoken += f", {min(ends):,.0f} to {max(ends):,.0f} with random ones"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(spoken)}">',
        f'<text x="{LEFT}" y="15" class="title">{escape(title)}</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        y = TOP + high - share * high
        x = LEFT + share * wide
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="tick" text-anchor="end">{share * most:,.0f}</text>')
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + high + 15}" class="tick" text-anchor="middle">{share * last:,.0f}</text>'
        )
    parts.append(f'<line x1="{LEFT}" y1="{TOP + high}" x2="{WIDTH - RIGHT}" y2="{TOP + high}" class="axis"/>')
    parts += [f'<polyline points="{points(one)}" class="chance"/>' for one in chance]
    parts += [
        f'<polyline points="{points(curve)}" class="selected"/>',
        f'<text x="{LEFT + wide / 2}" y="{TOP + high + 32}" class="tick" text-anchor="middle">samples selected</text>',
        "</svg>",
    ]
    return Markup("\n".join(parts))
