"""What the efficacy bench's page makes of its results: seeds taken together, and what is concluded of them."""

from __future__ import annotations

import json
import statistics
from typing import Any

import pytest

from bench.efficacy.measures import spread
from bench.efficacy.merge import merged
from bench.efficacy.page import tables
from bench.efficacy.page.data import read
from bench.efficacy.page.markdown import figures
from bench.efficacy.page.render import render
from bench.efficacy.page.verdicts import Verdict, conclusion, shortcomings, verdict
from tests.unit.efficacy_results import (
    ARMS,
    found_in,
    panel_of,
    results,
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return results(("maths", "instructions", "procedural"), noises=(0.0, 0.3))


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
