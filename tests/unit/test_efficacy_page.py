"""The efficacy bench's page and tables: they say what the results have, and what is not there breaks nothing."""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.efficacy.measures import spread
from bench.efficacy.merge import merged
from bench.efficacy.page import tables
from bench.efficacy.page.__main__ import main
from bench.efficacy.page.data import Efficacy, Panel, read
from bench.efficacy.page.files import read_files
from bench.efficacy.page.markdown import BEGIN, END, figures, put
from bench.efficacy.page.render import render
from bench.efficacy.page.verdicts import Verdict, before, conclusion, difference, label, shortcomings, verdict

DOCS = Path(__file__).parents[2] / "docs" / "efficacy.md"

ARMS: dict[str, tuple[str, float, float, float | None]] = {  # kind, share of the gap it wins, seconds, AUROC
    "all rows": ("nothing", 0.0, 31, None),
    "right rows only": ("oracle", 1.0, 24, None),
    "direct mix": ("baseline", 0.1, 33, None),
    "longest": ("baseline", -0.2, 26, 0.44),
    "perplexity": ("baseline", 0.21, 35, 0.66),
    "ifd": ("baseline", -0.1, 41, 0.38),
    "pmi": ("baseline", 0.33, 42, 0.71),
    "cross loss": ("recipe", 0.55, 78, 0.83),
    "cross gain": ("recipe", 0.62, 86, 0.87),
    "calibrated": ("recipe", 0.74, 96, 0.91),
    "middo": ("recipe", 0.02, 410, 0.55),
    "clear": ("recipe", 0.38, 350, 0.78),
    "mads": ("recipe", -0.05, 52, None),
    "bds": ("recipe", 0.44, 240, 0.72),
    "bmo": ("recipe", 0.4, 390, 0.72),
    "auto": ("recipe", 0.7, 110, 0.91),
    "confidence → coverage → weights": ("combination", 0.68, 131, 0.88),
}
FLAWS = {
    "extractive_qa": ("other span", "whole sentence", "vague", "duplicate"),
    "maths": ("wrong number", "cut off", "vague", "duplicate"),
    "instructions": ("swapped", "cut off", "vague", "duplicate"),
    "procedural": ("other procedure", "slip", "vague", "duplicate"),
}
SCORES = {"extractive_qa": "token F1", "maths": "same number", "instructions": "token F1", "procedural": "exact match"}


def cell(task: str, noise: float, seed: int, rows: int = 400) -> dict[str, Any]:
    """Made up, in the form of the bench's own."""
    rng = random.Random(f"{task} {noise} {seed}")
    number = list(FLAWS).index(task)
    clean, lost = 0.9 + 0.4 * number, (0.5, 0.02, 0.28, 0.65)[number] * noise
    base = rng.gauss(clean, 0.04)
    deviations = [-0.1, -0.05, 0.0, 0.05, 0.1]

    def made(kind: str, share: float, seconds: float, kept: float) -> dict[str, Any]:
        loss = base + lost * (1 - share) + rng.gauss(0, 0.012)
        score = None if task == "instructions" else max(0.0, min(1.0, 0.62 - 0.3 * (loss - clean) - 0.1 * number))
        trained = 31 * kept
        return {
            "kind": kind,
            "loss": loss,
            "score": score,
            "rows": round(rows * kept),
            "trained_seconds": trained,
            "seconds": seconds * (1 + 0.4 * number),
            "held_out_nats": [loss + deviation for deviation in deviations],
            "held_out_scores": None if score is None else [score] * len(deviations),
        }

    arms, signals = {}, {}
    for name, (kind, share, seconds, auroc) in ARMS.items():
        kept = 1 - noise if kind == "oracle" else 1.0 if name in ("all rows", "direct mix") else 0.7
        arms[name] = made(kind, share + rng.gauss(0, 0.03), seconds, kept)
        if kind in ("recipe", "combination") or (kind == "baseline" and kept < 1):
            arms[f"random, as {name}"] = made("control", -0.12, 22, kept)
        if auroc is not None and noise:
            by_kind = {
                flaw: min(0.99, max(0.05, auroc + (0.1, -0.12, -0.2, -0.36)[place] + rng.gauss(0, 0.02)))
                for place, flaw in enumerate(FLAWS[task])
            }
            signals[name] = {
                "auroc": statistics.fmean(by_kind.values()),
                "precision": auroc - 0.1,
                "recall": auroc - 0.15,
                "auroc_by_kind": by_kind,
            }
    return {
        "task": task,
        "noise": noise,
        "seed": seed,
        "rows": rows,
        "wrong": round(noise * rows),
        "made_of": f"{task} {noise} {seed}",
        "held_out_tokens": [1] * len(deviations),
        "arms": arms,
        "score_name": SCORES[task],
        "signals": signals,
    }


def gaps(cells: list[dict[str, Any]], measure: str) -> dict[str, Any]:
    """Of the cells of one task and noise: by arm, the gap with an interval of its seeds."""
    sign = 1 if measure == "loss" else -1
    told: dict[str, Any] = {}
    if any(one["arms"]["all rows"][measure] is None for one in cells):
        return dict.fromkeys(cells[0]["arms"])
    all_rows, right = ([one["arms"][name][measure] for one in cells] for name in ("all rows", "right rows only"))
    lost = sign * (statistics.fmean(all_rows) - statistics.fmean(right))
    for name in cells[0]["arms"]:
        won = [sign * (a - one["arms"][name][measure]) / lost for a, one in zip(all_rows, cells, strict=True)]
        width = 2 * (statistics.stdev(won) if len(won) > 1 else 0.1)
        mean = statistics.fmean(won)
        told[name] = {"mean": mean, "low": mean - width, "high": mean + width, "seeds": won} if lost > 0.012 else None
    return told


def results(
    tasks: tuple[str, ...] = tuple(FLAWS), noises: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5), seeds: int = 3
) -> dict[str, Any]:
    """As `bench.results.write` has it."""
    cells = [cell(task, noise, seed) for task in tasks for noise in noises for seed in range(seeds)]
    gap: dict[str, Any] = {}
    for task in tasks:
        for noise in noises:
            of_it = [one for one in cells if (one["task"], one["noise"]) == (task, noise)]
            losses, scores = gaps(of_it, "loss"), gaps(of_it, "score")
            gap.setdefault(task, {})[f"{noise:g}"] = {
                name: {"loss": losses[name], "score": scores[name]} for name in losses
            }
    return {
        "bench": "efficacy",
        "machine": {
            "cpu": "Some CPU",
            "cores": 2,
            "python": "3.12",
            "when": "2026-11-29T02:00:00+00:00, 2026-11-28T23:00:00+00:00",
        },
        "results": [],
        "ratios": {},
        "options": {"model": "models/tiny-model", "validation_rows": 100, "held_out_rows": 200, "seeds": seeds},
        "cells": cells,
        "gap": gap,
    }


# --- reading


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return results(("maths", "instructions", "procedural"), noises=(0.0, 0.3))


def found_in(document: dict[str, Any]) -> Efficacy:
    return read(json.loads(json.dumps(document)))


def panel_of(found: Efficacy, task: str, noise: float) -> Panel:
    return next(panel for panel in found.panels if (panel.task, panel.noise) == (task, noise))


def test_seeds_are_taken_together_and_differences_are_paired(document: dict[str, Any]) -> None:
    panel = panel_of(found_in(document), "procedural", 0.3)
    cells = [one for one in document["cells"] if (one["task"], one["noise"]) == ("procedural", 0.3)]
    losses = {name: [one["arms"][name]["loss"] for one in cells] for name in cells[0]["arms"]}
    bds = panel.arms["bds"]
    assert bds.loss.mean == pytest.approx(statistics.fmean(losses["bds"]))
    assert bds.loss.error == pytest.approx(statistics.stdev(losses["bds"]) / 3**0.5)
    for told, peer in ((bds.above, "all rows"), (bds.over_chance, "random, as bds")):
        apart = [one - other for one, other in zip(losses["bds"], losses[peer], strict=True)]
        assert told.values == pytest.approx(apart)
        assert told.error == pytest.approx(statistics.stdev(apart) / 3**0.5)
    gap = document["gap"]["procedural"]["0.3"]["bds"]["loss"]
    assert (bds.gap.mean, bds.gap.low, bds.gap.high) == (gap["mean"], gap["low"], gap["high"])
    chance = [one - other for one, other in zip(losses["random, as bds"], losses["all rows"], strict=True)]
    lost = statistics.fmean(losses["all rows"]) - statistics.fmean(losses["right rows only"])
    assert bds.gaps_of_chance == pytest.approx([-one / lost for one in chance])
    assert [arm.name for arm in panel.shown] == [name for name, (kind, *_) in ARMS.items() if "rows" not in name]
    assert panel.best().name == min(
        (name for name, (kind, *_) in ARMS.items() if kind in ("recipe", "combination")),
        key=lambda name: statistics.fmean(losses[name]),
    )


def test_the_first_screen_is_about_the_noise_that_most_tasks_have(document: dict[str, Any]) -> None:
    assert found_in(document).noise == 0.3
    assert read(results(noises=(0.0, 0.5))).noise == 0.5
    assert read(results(noises=(0.0,))).noise == 0.0
    mixed = results(noises=(0.1,))
    mixed["cells"] += results(("maths",), noises=(0.3,))["cells"]
    assert read(mixed).noise == 0.1
    with pytest.raises(ValueError, match="no cells"):
        read({"bench": "efficacy"})


def test_files_of_other_tasks_are_one_page(document: dict[str, Any]) -> None:
    apart = [results((task,), noises=(0.0, 0.3)) for task in ("maths", "instructions", "procedural")]
    for number, one in enumerate(apart):
        one["options"] |= {"held_out_rows": 100 * (number + 1), "warm_steps": 60, "warm_learning_rate": 1e-4 * number}
        one["command"] = f"python -m bench.efficacy --tasks {number}"
    together = read(merged(apart))
    alone = found_in(document)
    assert [(panel.task, panel.noise) for panel in together.panels] == [(one.task, one.noise) for one in alone.panels]
    assert panel_of(together, "maths", 0.3).arms["bds"].loss == panel_of(alone, "maths", 0.3).arms["bds"].loss
    about = dict(tables.about(together))
    assert (about["Held-out rows"], about["Clean rows to learn from"]) == ("100, 200, 300", "100")
    assert about["The base model trained first, on clean rows, for"] == "60 steps at 0.0, 0.0001, 0.0002"
    assert together.commands == [f"python -m bench.efficacy --tasks {number}" for number in range(3)]
    render(together)


def test_arms_of_the_same_cells_are_one_panel_and_share_their_controls(document: dict[str, Any]) -> None:
    first, second = (json.loads(json.dumps(document)) for _ in range(2))
    for cell in first["cells"]:
        for name in ("bds", "random, as bds"):
            del cell["arms"][name]
        cell["signals"].pop("bds", None)
    for cell in second["cells"]:
        cell["arms"] = {"bds": cell["arms"]["bds"]}
        cell["signals"] = {name: one for name, one in cell["signals"].items() if name == "bds"}
    panel = panel_of(read(merged([first, second])), "maths", 0.3)
    assert panel.arms.keys() == panel_of(found_in(document), "maths", 0.3).arms.keys()
    assert panel.arms["bds"].gap is not None
    for cell in second["cells"]:
        all_of_them = {**cell["arms"]["bds"], "rows": cell["rows"]}
        cell["arms"] |= {"all, weighted": all_of_them, "random, as all, weighted": {**all_of_them, "kind": "control"}}
    arms = panel_of(read(merged([first, second])), "maths", 0.3).arms
    assert "all, weighted" in arms
    assert "random, as all, weighted" not in arms, "all rows are no random ones"
    for cell in second["cells"]:
        cell["made_of"] = "something else"
    with pytest.raises(ValueError, match="two files have maths at noise 0, seed 0, of other data"):
        merged([first, second])


def test_seeds_whose_arms_have_other_settings_are_not_averaged(document: dict[str, Any]) -> None:
    first, second = (json.loads(json.dumps(document)) for _ in range(2))
    for number, cell in enumerate(second["cells"]):
        cell["seed"] += 100
        cell["made_of"] = f"of another draw {number}"
        cell["arms"]["bds"]["settings"] = {"keep": 0.7, "later": None}
    for cell in first["cells"]:
        cell["arms"]["bds"]["settings"] = {"keep": 0.7}
    assert len(merged([first, second])["cells"]) == 2 * len(first["cells"]), (
        "what was unset before there was such a thing"
    )
    second["cells"][-1]["arms"]["bds"]["settings"]["later"] = "calibrated"
    with pytest.raises(ValueError, match=r"bds of .* later None and 'calibrated'; expected the same of all seeds"):
        merged([first, second])


# --- verdicts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((-0.10, -0.11, -0.12), Verdict.BETTER),
        ((0.10, 0.11, 0.12), Verdict.WORSE),
        ((-0.10, -0.15, -0.20), Verdict.BETTER),  # 5.2 standard errors; 4.3 are enough for three seeds
        ((-0.10, -0.17, -0.24), Verdict.UNCLEAR),  # 4.2
        ((-0.10, -0.17, -0.24, -0.17), Verdict.BETTER),  # 5.9; 3.2 are enough for four
        ((-0.1, -0.1, -0.1, -0.1, 0.1), Verdict.UNCLEAR),
        ((-0.1, -0.1), Verdict.TOO_FEW),
        ((-0.1,), Verdict.TOO_FEW),
        ((), Verdict.MISSING),
    ],
)
def test_better_is_said_only_of_what_chance_does_not_explain(values: tuple[float, ...], expected: Verdict) -> None:
    assert verdict(spread(values)) is expected


def without(document: dict[str, Any], gone: Callable[[str], bool]) -> dict[str, Any]:
    changed = json.loads(json.dumps(document))
    for one in changed["cells"]:
        for part in ("arms", "signals"):
            one[part] = {name: value for name, value in one[part].items() if not gone(name)}
    return changed


def test_what_does_not_work_is_said_and_what_works_is_not() -> None:
    made = results(("extractive_qa", "procedural"), noises=(0.0, 0.3))
    for one in made["cells"]:
        arms = one["arms"]
        for name, arm in arms.items():
            nothing = arms["all rows"]["loss"]
            arm["loss"] = nothing - 0.1 * (one["noise"] > 0) - 0.001 * one["seed"] * (name == "auto")
            if name.startswith("random") or name == "mads":
                arm["loss"] = nothing + 0.05 + 0.001 * one["seed"]
    said = shortcomings(read(made))
    (mads,) = [one for one in said if one.startswith("mads")]
    assert "shown to be better than as many random rows on none of 2 tasks" in mads
    assert "worse than doing nothing on extractive QA at 30% and procedures at 30%" in mads
    assert "worse by more than one standard error where nothing is wrong, on extractive QA and procedures" in mads
    assert not [one for one in said if one.startswith("auto")]
    assert [one for one in said if "sees “duplicate” on extractive QA and procedures" in one]
    assert not [one for one in said if "other span" in one]
    assert "on 2 of 2 tasks, and better than as many random rows on 2" in conclusion(read(made))


def test_a_simple_rule_that_wins_one_seed_and_problems_are_said() -> None:
    made = results(("maths",), noises=(0.3,), seeds=1)
    made["cells"][0]["arms"]["pmi"]["loss"] = 0.1
    made["problems"], made["left_out"] = ["maths, noise 0.3, seed 1: ended with 9"], ["auto"]
    said = shortcomings(read(made))
    assert "Grade-school maths: the simple rule “pmi” did better than every recipe." in said
    assert "Fewer than 3 seeds show nothing, whatever the figures are: grade-school maths." in said
    assert "Not measured: extractive QA, open instructions and procedures." in said
    (recipes,) = [one for one in said if one.startswith("Not measured: “")]
    assert "“weakest, among”" in recipes
    assert "“auto”" not in recipes
    assert said[-2:] == [
        "Not everything ran: maths, noise 0.3, seed 1: ended with 9.",
        "Not everything ran: auto, which this build cannot do.",
    ]
    assert "on none of 1 task" in conclusion(read(made))


def test_a_base_that_right_rows_teach_nothing_is_said_to_be_one() -> None:
    made = results(("maths", "procedural"), noises=(0.3,))
    for one in made["cells"]:
        right = one["arms"]["right rows only"]["loss"]
        one["base_loss"] = right + 0.5 if one["task"] == "maths" else right - 0.1
    found = read(made)
    told = [one for one in shortcomings(found) if "makes no better a model than the base" in one]
    assert [one.partition(":")[0] for one in told] == ["Procedures"]
    base = panel_of(found, "maths", 0.3).base
    assert base is not None
    for whole in (figures(found), render(found)):
        assert f"The base model, before training: {base.mean:.3f} ± {base.error:.3f} nats." in whole


# --- the page


def cells_in(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows
    ]


def told(values: list[float], digits: int = 3) -> str:
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def percent(value: float) -> str:
    return "0%" if abs(value) < 0.005 else f"{value:.0%}".replace("-", "−")


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


# --- the documentation


def tables_in(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


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
