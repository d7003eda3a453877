"""How a model learnt, as inline SVG: the loss of its training, step by step."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup, escape

from burnish.report.data import Model

WIDTH, HEIGHT = 520, 204
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 30, 40
MAX_POINTS = 150


def learning_chart(model: Model) -> Markup:
    """The training loss by optimiser step; where there are more than `MAX_POINTS`, means of as many steps each."""
    each = -(-len(model.losses) // MAX_POINTS)
    parts = [np.asarray(model.losses[at : at + each], dtype=float) for at in range(0, len(model.losses), each)]
    steps, losses = ([float(part[:, column].mean()) for part in parts] for column in (0, 1))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    last, lowest, highest = model.losses[-1][0], min(losses), max(losses)
    span = (highest - lowest) or 1.0
    line = " ".join(
        f"{LEFT + step / last * wide:.1f},{TOP + (highest - loss) / span * high:.1f}"
        for step, loss in zip(steps, losses, strict=True)
    )
    spoken = f"{model.label}: training loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last, over {last:,} steps"
    under = "optimiser step" if each == 1 else f"optimiser step; each point the mean of {each}"
    ticks = [
        f'<text x="{LEFT - 6}" y="{TOP + high * down + 4:.1f}" class="tick" text-anchor="end">'
        f"{highest - down * span:.2f}</text>"
        for down in (0.0, 1.0)
    ]
    ticks += [
        f'<text x="{LEFT + wide * share:.1f}" y="{TOP + high + 15}" class="tick" text-anchor="middle">'
        f"{share * last:,.0f}</text>"
        for share in (0.0, 0.5, 1.0)
    ]
    svg = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(spoken)}">',
        f'<text x="{LEFT}" y="15" class="title">{escape(model.label)}</text>',
        *ticks,
        f'<line x1="{LEFT}" y1="{TOP + high}" x2="{WIDTH - RIGHT}" y2="{TOP + high}" class="axis"/>',
        f'<polyline points="{line}" class="selected"/>',
        f'<text x="{LEFT + wide / 2}" y="{TOP + high + 32}" class="tick" text-anchor="middle">{under}</text>',
        "</svg>",
    ]
    return Markup("\n".join(svg))
