"""The efficacy bench's page and the documentation's tables: they say what the results have, and what is not there
breaks nothing."""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.efficacy.measures import spread
from bench.efficacy.merge import merged
from bench.efficacy.page import tables
from bench.efficacy.page.__main__ import main
from bench.efficacy.page.data import read
from bench.efficacy.page.files import read_files
from bench.efficacy.page.markdown import BEGIN, END, figures, put
from bench.efficacy.page.render import render
from bench.efficacy.page.verdicts import before, difference, label
from tests.unit.efficacy_results import (
    ARMS,
    cells_in,
    found_in,
    panel_of,
    percent,
    results,
    tables_in,
    told,
    without,
)

DOCS = Path(__file__).parents[2] / "docs" / "efficacy.md"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return results(("maths", "instructions", "procedural"), noises=(0.0, 0.3))


def test_every_arm_stands_in_the_tables_with_its_own_figures(document: dict[str, Any]) -> None:
    found = found_in(document)
    rows = cells_in(render(found))
    for panel in found.panels:
        of_it = [one for one in document["cells"] if (one["task"], one["noise"]) == (panel.task, panel.noise)]
        for name in of_it[0]["arms"]:
            loss = told([one["arms"][name]["loss"] for one in of_it])
            (row,) = [row for row in rows if row and row[0] == label(panel.arms[name]) and row[2] == loss]
            assert row[1] == str(of_it[0]["arms"][name]["rows"])
            assert row[-2] == f"{statistics.fmean(one['arms'][name]['seconds'] for one in of_it):,.0f}"
            assert row[-1] == "3"
            gap = document["gap"][panel.task][f"{panel.noise:g}"][name]["loss"]
            if gap is not None:
                ends = (
                    ""
                    if name in ("all rows", "right rows only")
                    else f" ({percent(gap['low'])} to {percent(gap['high'])})"
                )
                assert row[5] == percent(gap["mean"]) + ends


def test_the_first_screen_has_the_gap_of_the_best_recipe(document: dict[str, Any]) -> None:
    html = render(found_in(document))
    cards = html.split('<div class="card">')[1:]
    assert len(cards) == 3
    for card, panel in zip(cards, found_in(document).main, strict=True):
        best = panel.leading
        gap = document["gap"][panel.task]["0.3"][best.name]["loss"]
        assert f"<dd>{best.name}</dd>" in card, "not one that is told the share"
        told_one = panel.best(told_share=True)
        assert f"<dt>Told the share: {told_one.name}</dt>" in card
        shown = percent(gap["mean"]) if gap else f"{best.above.mean:+.3f}".replace("-", "−")
        assert f'<b class="big">{shown}</b>' in card
        assert ("of the gap recovered" in card) == (gap is not None)


def test_pictures_say_their_figures_to_who_cannot_see_them(document: dict[str, Any]) -> None:
    found = found_in(document)
    spoken = re.findall(r'aria-label="([^"]*)"', render(found))
    assert not [one for one in spoken if "nan" in one]
    gap = document["gap"]["procedural"]["0.3"]["bds"]["loss"]
    share = f"bds: {percent(gap['mean'])} ({percent(gap['low'])} to {percent(gap['high'])})"
    assert [one for one in spoken if one.startswith("Procedures, 30% wrong.") and share in one]
    auroc = statistics.fmean(
        one["signals"]["bds"]["auroc_by_kind"]["slip"]
        for one in document["cells"]
        if (one["task"], one["noise"]) == ("procedural", 0.3)
    )
    assert [one for one in spoken if one.startswith("AUROC") and f"procedures, slip {auroc:.2f}" in one]


def test_the_page_needs_nothing_from_elsewhere_and_is_well_formed(document: dict[str, Any]) -> None:
    html = render(found_in(document))
    assert not re.findall(r"<script|<link|<img|@import|url\(|https?://", html)
    for picture in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(picture)  # noqa: S314 - our own
    assert "prefers-color-scheme: dark" in html
    for name in re.findall(r"var\(--(\w+)\)", html):
        assert f"--{name}:" in html, f"the style sheet has no colour {name}"


@pytest.mark.parametrize(
    "gone",
    [
        lambda name: name.startswith("random"),
        lambda name: name == "right rows only",
        lambda name: name == "all rows",
        lambda name: name != "all rows",
        lambda name: ARMS.get(name, ("control",))[0] in ("recipe", "combination"),
        lambda name: name not in ("bds", "random, as bds"),
    ],
)
def test_arms_that_are_missing_break_nothing(document: dict[str, Any], gone: Callable[[str], bool]) -> None:
    changed = without(document, gone)
    html = render(read(changed))
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    assert "None" not in html
    assert figures(read(changed))
    names = {name for one in changed["cells"] for name in one["arms"]}
    assert {row[0].removesuffix(" (told the share)") for row in cells_in(html) if row} >= names


def test_no_gap_no_scores_and_no_signals_break_nothing() -> None:
    made = results(("maths", "procedural"), noises=(0.3,), seeds=1)
    made["gap"] = {}
    for one in made["cells"]:
        one["signals"] = {}
        one["score_name"] = None
        for arm in one["arms"].values():
            arm["score"] = None
    html = render(read(made))
    assert "<h2>Which flaws signals see</h2>" not in html
    assert "<h2>More noise, less noise</h2>" not in html
    assert "held-out loss less that of all rows" in html
    assert "too few seeds" in html
    assert "Gap recovered</th>" not in html


def test_an_arm_that_one_seed_lacks_is_compared_where_both_are(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    lacking = next(one for one in changed["cells"] if (one["task"], one["noise"], one["seed"]) == ("maths", 0.3, 1))
    del lacking["arms"]["bds"]
    arm = panel_of(read(changed), "maths", 0.3).arms["bds"]
    assert len(arm.loss.values) == len(arm.above.values) == 2
    render(read(changed))


def test_the_best_recipe_is_one_that_needs_not_know_how_many_rows_are_wrong(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    cells = [one for one in changed["cells"] if (one["task"], one["noise"]) == ("maths", 0.3)]
    for cell in cells:
        cell["arms"]["bds"]["loss"] = 0.01 + 0.001 * cell["seed"]
    panel = panel_of(read(changed), "maths", 0.3)
    assert panel.best() is panel.best(told_share=True) is panel.arms["bds"]
    assert panel.leading is panel.best(told_share=False)
    assert panel.leading not in (None, panel.arms["bds"])
    text = figures(read(changed))
    assert "the best recipe of each task that is told no share is shown" in text
    assert "The best that is told what share of the rows to keep is shown to be better than doing nothing on 3" in text
    assert [row[1] for row in tables_in(text) if row[0] == "grade-school maths"] == [
        panel.leading.name,
        "bds (told the share)",
    ]
    only = read(without(changed, lambda name: name not in ("all rows", "right rows only", "bds", "random, as bds")))
    assert panel_of(only, "maths", 0.3).leading.name == "bds"
    assert "the best recipe of each task, told what share to keep, is shown" in figures(only)


def test_arms_are_put_beside_the_best_one_on_the_seeds_that_both_have(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    cells = [one for one in changed["cells"] if (one["task"], one["noise"]) == ("maths", 0.3)]
    del cells[0]["arms"]["bds"]
    panel = panel_of(read(changed), "maths", 0.3)
    leading = panel.leading
    assert leading is not None
    losses = [[one["arms"][name]["loss"] for one in cells[1:]] for name in ("bds", leading.name)]
    apart = [one - other for one, other in zip(*losses, strict=True)]
    assert panel.apart("bds", leading.name).values == pytest.approx(apart)
    columns = tables.columns_of(panel)
    beside = columns[f"Against {leading.name} (seeds)"]
    assert beside(panel.arms["bds"]) == f"{difference(spread(apart))} (2)"
    assert beside(leading) == "–"
    assert beside(panel.arms["middo"]).endswith(" (3)")
    scores = [one["arms"]["middo"]["score"] - one["arms"]["all rows"]["score"] for one in cells]
    assert columns["Same number against all rows"](panel.arms["middo"]) == difference(spread(scores))


def test_the_card_tells_scores_and_the_oracle_on_the_seeds_of_the_best_recipe(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    cells = [one for one in changed["cells"] if (one["task"], one["noise"]) == ("maths", 0.3)]
    leading = panel_of(read(changed), "maths", 0.3).leading
    assert leading is not None
    for number, cell in enumerate(cells):
        for name in [name for name in cell["arms"] if number == 2 and cell["arms"][name]["kind"] == "recipe"]:
            del cell["arms"][name]
        cell["arms"]["all rows"]["score"] = [0.1, 0.2, 0.9][number]
        cell["arms"]["right rows only"]["score"] = [0.4, 0.6, 0.9][number]
    panel = panel_of(read(changed), "maths", 0.3)
    assert panel.score_beside("all rows", leading.name) == pytest.approx(0.15)
    (card,) = [one for one in render(read(changed)).split('<div class="card">')[1:] if "Grade-school maths" in one[:40]]
    best = panel.leading
    assert best is not None
    assert best.score is not None
    assert len(best.loss.values) == 2
    assert f"0.150 → <b>{best.score.mean:.3f}</b>" in card
    assert "(oracle 0.500)" in card
    still = panel.apart(best.name, "right rows only")
    assert still is not None
    assert f"<dd>{still.mean:.3f}</dd>" in card or still.mean <= 0


def test_figures_without_a_commit_are_not_taken_for_those_of_another(document: dict[str, Any]) -> None:
    first, second = (json.loads(json.dumps(document)) for _ in range(2))
    second["machine"]["commit"] = "abc"
    assert dict(tables.about(read(merged([first, second]))))["Commit"] == "not noted, abc"


def test_an_arm_of_fewer_seeds_is_not_the_best_for_having_had_easy_ones(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    cells = [one for one in changed["cells"] if (one["task"], one["noise"]) == ("maths", 0.3)]
    best = panel_of(read(changed), "maths", 0.3).best()
    assert best is not None
    for cell in cells[1:]:
        del cell["arms"][best.name]
    cells[0]["arms"][best.name]["loss"] = 0.01
    lone = panel_of(read(changed), "maths", 0.3)
    assert lone.best() not in (None, lone.arms[best.name])


def test_a_share_that_nothing_bounds_is_told_as_such_and_wins_nothing(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    for by_noise in changed["gap"].values():
        for one in by_noise["0.3"].values():
            one["loss"] = one["loss"] and {"mean": 0.9, "low": None, "high": None}
    html = render(read(changed))
    assert "not bounded by so few seeds" in html
    assert "90% (not bounded)" in html
    assert "It wins back" not in html


def test_it_is_told_what_wrong_rows_can_cost(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    for cell in changed["cells"]:
        cell["held_out_tokens"] = [8 * number for number in cell["held_out_tokens"]]
    panel = panel_of(read(changed), "maths", 0.3)
    assert panel.bound == pytest.approx(-math.log(1 - panel.wrong / panel.rows) / 8)
    told = f"just how many are wrong pays at most {panel.bound:.3f}, with 8.0 tokens in a response"
    assert render(read(changed)).count(told) == 4  # beside each table, and where they cost too little
    assert "Wrong rows cost" not in before(panel_of(read(changed), "maths", 0.0))


def test_names_are_words_and_never_markup(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document).replace("middo", "<b>&middo"))
    changed["problems"] = ["<i>x</i>"]
    html = render(read(changed))
    assert "<b>&middo" not in html
    assert "&lt;b&gt;&amp;middo" in html
    assert "<i>x</i>" not in html


def test_the_documentation_has_the_figures_of_the_page(document: dict[str, Any]) -> None:
    found = found_in(document)
    text = put(f"# Title\n\nBefore.\n\n{BEGIN}\noutdated\n{END}\n\nAfter.\n", found)
    assert text.startswith(f"# Title\n\nBefore.\n\n{BEGIN}\n\n")
    assert text.endswith(f"\n\n{END}\n\nAfter.\n")
    assert "outdated" not in text
    assert put(text, found) == text
    heads = ("Arm", "Signal by itself", "---")
    in_page = [row for row in cells_in(render(found)) if len(row) > 6]
    in_text = [row for row in tables_in(text) if len(row) > 6 and row[0] not in heads]
    assert sorted(in_text) == sorted(in_page)
    assert len(in_text) == sum(len(panel.arms) + len(panel.measures) for panel in found.panels)
    told_about = {row[0]: row[1] for row in tables_in(text) if len(row) == 2}
    assert told_about["Machine"] == "Some CPU"
    assert told_about["Date"] == "2026-11-28 to 2026-11-29"
    assert told_about["Model"] == "tiny-model"
    assert "```\nmake bench-efficacy\n```" in text
    assert "<pre>make bench-efficacy</pre>" in render(found)
    assert told_about["Rows to train on"] == "400"


def test_the_figures_of_the_documentation_are_those_of_the_results_beside_it() -> None:
    files = sorted(DOCS.with_suffix("").glob("*.json"))
    text = DOCS.read_text(encoding="utf-8")
    assert put(text, read(merged(read_files(files)))) == text, (
        "write them anew: python -m bench.efficacy.page docs/efficacy/*.json --markdown"
    )


def test_signals_by_themselves_have_lines_the_best_first_and_places_in_the_map() -> None:
    made = results(("procedural",), noises=(0.3,))
    for number, one in enumerate(made["cells"]):
        by_kind = {"slip": 0.7, "vague": 0.6}
        one["measures"] = {
            "loss": {"auroc": 0.6, "precision": 0.4, "recall": 0.4, "auroc_by_kind": by_kind},
            "weakest": {"auroc": 0.8 + 0.1 * (number == 0), "precision": 0.5, "recall": 0.5, "auroc_by_kind": by_kind},
        }
        one["base_loss"], one["base_score"] = 1.0, 0.25
    found = read(made)
    mean = statistics.fmean([0.9, *[0.8] * (len(made["cells"]) - 1)])
    lines = [row for row in tables_in(figures(found)) if row[0] in ("loss", "weakest")]
    assert lines == [
        ["weakest", f"{mean:.2f}", "0.50", "0.70", "0.60", "3"],
        ["loss", "0.60", "0.40", "0.70", "0.60", "3"],
    ]
    assert lines == [row for row in cells_in(render(found)) if row[:1] and row[0] in ("loss", "weakest")]
    assert "by itself: weakest" in render(found)
    assert "exact match 0.250" in figures(found)


def test_a_document_without_a_place_for_figures_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no place for figures; expected the lines"):
        put(f"{BEGIN} and no end", found_in(document))


def test_the_commands_write_the_page_and_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: dict[str, Any]
) -> None:
    given, page, text = tmp_path / "efficacy.json", tmp_path / "new" / "page.html", tmp_path / "efficacy.md"
    monkeypatch.setattr(sys, "argv", ["page", str(given), "--out", str(page)])
    with pytest.raises(SystemExit, match="make bench-efficacy"):
        main()
    given.write_text(json.dumps(document))
    main()
    assert page.read_text(encoding="utf-8") == render(read(merged([document])))
    monkeypatch.setattr(sys, "argv", ["page", str(given), "--markdown", str(text)])
    text.write_text("nothing")
    with pytest.raises(SystemExit, match="no place for figures"):
        main()
    text.write_text(DOCS.read_text(encoding="utf-8"))
    main()
    assert text.read_text(encoding="utf-8") == put(DOCS.read_text(encoding="utf-8"), read(merged([document])))
    given.write_text("{}")
    with pytest.raises(SystemExit, match="no cells"):
        main()
