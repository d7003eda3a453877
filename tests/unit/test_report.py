"""The report: what a reader sees, from plain data."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import burnish.report
from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.recipes.registry import METHODS
from burnish.coordinator.records import FailureRecord
from burnish.report.data import (
    Change,
    FlawRate,
    FlawTable,
    Map,
    MiddoRound,
    Model,
    ReportData,
    StepTiming,
)
from burnish.report.histogram import Line, Series, histogram
from burnish.report.recipes import PAGES
from burnish.report.render import MAX_CHANGES_SHOWN, render, write_report

ROUND = MiddoRound(
    number=1,
    num_rows=4,
    selected={"hard": 1, "sparse": 0, "low_quality": 1},
    rewritten=1,
    added=0,
    rejected=1,
    thresholds=[Threshold("hard", "loss_pre", 2.0, 0.5, 1.0, 2.5, None, 0, 3, 1)],
    signals={"loss_pre": [1.5, 2.0, 2.6]},
    changes=[
        Change("r1", ("hard",), "simplify", ("Loss 2.6.",), "a <script>x</script> b", "old", "a c", "new", ""),
        Change("r2", ("low_quality",), "improve", ("Quality 3.",), "p", "q", None, None, "no marker"),
    ],
    failures=[FailureRecord(1, "judge", "UNPARSEABLE", 2, "I like it")],
    timings=[StepTiming("train", "done", 4, 0, 2.0), StepTiming("judge", "done", 24, 24, 0.0)],
    flaws=FlawTable(
        [FlawRate("wrong_answer", 4, {"hard": 1, "sparse": 0, "low_quality": 2, "any": 3})],
        FlawRate("none", 0, {"hard": 0, "sparse": 0, "low_quality": 0, "any": 0}),
        "",
    ),
)
DATA = ReportData(
    run_id="middo-1",
    recipe="middo",
    version="0.1.0",
    created_at="2026-01-01",
    finished=True,
    rows_in=4,
    rows_out=4,
    rounds=[ROUND],
    last_timings=[],
    models=[Model("base", "m", "sha256:00", None, 2.5), Model("final", "n", "sha256:11", 1.0, 2.25)],
    config={"rounds": 1},
)

LEGENDS = {recipe: page.legend for recipe, page in PAGES.items() if page.legend}


def test_the_losses_of_each_training_are_drawn() -> None:
    losses = [(step, 3.0 - step / 400) for step in range(1, 401)]
    page = render(replace(DATA, models=[Model("base", "m", "", None, 2.5), Model("final", "n", "", 1, 2, losses)]))
    assert page.count("How they learnt") == 1
    (line,) = re.findall(r'<polyline points="([^"]*)" class="selected"', page)
    points = [tuple(map(float, point.split(","))) for point in line.split()]
    assert len(points) == 134
    assert points == sorted(points)
    assert "each point the mean of 3" in page
    assert "final: training loss 2.995 at first, 2.000 at last, over 400 steps" in page
    assert "How they learnt" not in render(DATA)


def test_the_text_of_samples_is_escaped() -> None:
    page = render(DATA)
    assert "<script>" not in page
    assert "&lt;" in page


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    path = write_report(DATA, tmp_path / "report.html")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!#)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_numbers_are_those_of_the_data() -> None:
    page = render(DATA)
    assert "2.50 → 2.25" in page
    assert '3 <span class="soft">(75%)' in page
    assert "rejected: no marker" in page
    assert "UNPARSEABLE" in page
    assert "not finished" not in page
    assert "not finished" in render(replace(DATA, finished=False))


def test_no_bar_is_longer_than_its_column() -> None:
    after = StepTiming("train", "done", 4, 0, 30.0, "to compare with")  # longer than any step of a round
    widths = re.findall(r'class="bar" style="width:([\d.]+)%', render(replace(DATA, last_timings=[after])))
    assert sorted(map(float, widths)) == [0.0, 6.7, 100.0]


def test_a_base_rate_without_rows_has_no_percentage() -> None:
    assert "nan" not in render(DATA).lower()


def test_long_lists_of_changes_say_what_they_leave_out() -> None:
    many = replace(ROUND, changes=[ROUND.changes[0]] * (MAX_CHANGES_SHOWN + 7))
    assert "7 more are in the ledger" in render(replace(DATA, rounds=[many]))


def test_a_histogram_counts_every_value_once() -> None:
    svg = histogram("t", "u", [Series("s", [0.0] * 10 + [1.0] * 5, "after")], [Line("threshold", 0.7, "threshold")])
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="after"', svg)]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.01)
    assert "threshold 0.7" in svg


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_a_histogram_of_nothing_says_so(values: list[float]) -> None:
    assert "no finite value" in histogram("t", "u", [Series("s", values, "after")])


def test_a_constant_signal_is_drawn() -> None:
    assert "<rect" in histogram("t", "u", [Series("s", [2.0, 2.0], "after")])


MAP = Map({"keep": [(0.0, 0.0), (1.0, 2.0)], "several": [(0.5, 1.0)]}, "pca", (0.5, 0.25), 3, 3)


def test_a_map_has_a_key_for_what_is_in_it() -> None:
    page = render(replace(DATA, rounds=[replace(ROUND, map=MAP)]))
    assert page.count("<circle") == 3
    (keys,) = re.findall(r'<p class="key">(?!<i style="background:var\(--teal\)"></i>round)(.*?)</p>', page)
    assert re.sub(r"<[^>]*>", "|", keys) == "||kept as it is||more than one of these"
    assert "first two principal axes: 50% and 25%" in page
    assert "samples</text>" not in page, "all are drawn"


def test_a_map_by_umap_says_how_to_read_it_and_what_it_leaves_out() -> None:
    page = render(replace(DATA, rounds=[replace(ROUND, map=replace(MAP, method="umap", num_samples=4000))]))
    assert "The set by UMAP" in page
    assert "principal axes" not in page
    assert "drawn: 3 of 4,000 samples" in page


@pytest.mark.parametrize("points", [{}, {"keep": [(1.0, 1.0)]}])
def test_the_smallest_maps(points: dict[str, list[tuple[float, float]]]) -> None:
    page = render(replace(DATA, rounds=[replace(ROUND, map=replace(MAP, points=points))]))
    assert page.count("<circle") == len(points)
    assert "nan" not in page.lower()


def test_only_bilevel_selection_has_no_map() -> None:
    assert set(PAGES) == set(METHODS)
    assert set(METHODS) - set(LEGENDS) == {"bds", "bmo"}, "they embed nothing"


@pytest.mark.parametrize("recipe", sorted(LEGENDS))
def test_every_recipes_maps_can_be_keyed(recipe: str) -> None:
    frame = (Path(burnish.report.__file__).parent / "templates/frame.html.jinja").read_text(encoding="utf-8")
    for key in LEGENDS[recipe].keys:
        assert frame.count(f"--{key.color}:") == 2, "by day and by night"
