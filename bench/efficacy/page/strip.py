"""From doing nothing to the oracle as one strip: where chance is, and where the best recipe, with its interval."""

from __future__ import annotations

from statistics import fmean

from markupsafe import Markup

from bench.efficacy.page.data import Arm
from bench.efficacy.page.marks import mark
from bench.efficacy.page.scale import Scale
from bench.efficacy.page.svg import box, line, picture, text

WIDTH, HEIGHT, MIDDLE = 236, 60, 26
_EDGE = 0.25  # of the gap, shown beyond nothing and beyond the oracle


def strip(arm: Arm) -> Markup | None:
    """None where the arm has no gap."""
    gap = arm.gap
    if gap is None:
        return None
    scale = Scale(-_EDGE, 1 + _EDGE, 8, WIDTH - 8)
    nothing, oracle = scale(0), scale(1)
    parts = [
        box(nothing, MIDDLE - 5, oracle - nothing, 10, "track"),
        line(nothing, MIDDLE - 12, nothing, MIDDLE + 12, "nothing line"),
        line(oracle, MIDDLE - 12, oracle, MIDDLE + 12, "oracle line"),
    ]
    if gap.low is not None and gap.high is not None:
        parts.append(line(scale(gap.low), MIDDLE, scale(gap.high), MIDDLE, f"{arm.kind} line"))
    if arm.gaps_of_chance:
        at = scale(fmean(arm.gaps_of_chance))
        parts += [
            line(at, MIDDLE - 9, at, MIDDLE + 9, "chance line"),
            text(at, MIDDLE - 13, "chance", "word", "middle"),
        ]
    parts += [
        mark(arm.kind, scale(gap.mean), MIDDLE),
        text(nothing, MIDDLE + 27, "doing nothing", "word", "middle"),
        text(oracle, MIDDLE + 27, "oracle", "word", "middle"),
    ]
    spoken = f"Best recipe {gap.mean:.0%} of the way from doing nothing to the oracle"
    return picture(WIDTH, HEIGHT, "", spoken, parts)
