"""How the efficacy bench's pictures are drawn: ticks, names and intervals stay where they can be read."""

from __future__ import annotations

import re

import pytest

from bench.efficacy.page.dots import Dot, dot_chart
from bench.efficacy.page.lines import spaced
from bench.efficacy.page.marks import Mark
from bench.efficacy.page.scale import Scale, around


def test_ticks_are_round_and_inside() -> None:
    assert Scale(-0.31, 1.22, 0, 100).ticks(4) == pytest.approx([0.0, 0.5, 1.0])
    assert Scale(20, 900, 0, 100, log=True).ticks(5) == pytest.approx([20, 50, 100, 200, 500])
    assert Scale(3, 40_000, 0, 100, log=True).ticks(5) == pytest.approx([10, 100, 1000, 10_000])
    scale = around([2.0], 0, 100)
    assert scale(2.0) == pytest.approx(50)
    assert around([0.0], 10, 20)(0.0) == pytest.approx(15)
    assert Scale(1, 100, 0, 100, log=True)(10) == pytest.approx(50)
    assert Scale(0, 1, 0, 100)(7) == 100
    assert not Scale(0, 1, 0, 100).holds(7)


def test_names_at_the_ends_of_lines_do_not_lie_over_each_other() -> None:
    assert spaced([10, 11, 50], 0, 100, apart=13) == [10, 23, 50]
    assert spaced([90, 95, 99], 0, 100, apart=13) == [74, 87, 100]


def test_an_interval_that_goes_on_is_cut_with_an_arrow() -> None:
    wide = Dot("wide", "recipe", 0.5, -40.0, 30.0, None, "told")
    svg = dot_chart("title", "axis", [wide], [Mark("all rows", 0.0, "nothing"), Mark("right", 1.0, "oracle")], str)
    assert svg.count('<path d="M') == 2
    lines = [float(x) for x in re.findall(r'x[12]="([\d.]+)"', svg)]
    assert min(lines) >= 0
    assert max(lines) <= 504
