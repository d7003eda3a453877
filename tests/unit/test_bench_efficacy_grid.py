"""The grid of the efficacy bench: its arms, what answers are worth, the gap that is won back, costs, and the report."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from bench.efficacy.arms import ARMS, NOISY, ORACLE, Arm, Kind, control_of, run_folder, settings_for, there, unfit
from bench.efficacy.cell import Cell
from bench.efficacy.control import draws
from bench.efficacy.costs import cost, rates
from bench.efficacy.flaws import DUPLICATE, VAGUE
from bench.efficacy.gap import Interval, recovered
from bench.efficacy.grid import cells, expected_of
from bench.efficacy.measures import HeldOut, detection
from bench.efficacy.reading import Found, Measured
from bench.efficacy.record import LOSS, SCORE, record_of
from bench.efficacy.rows import Fitting
from bench.efficacy.scores import exact_match, same_number, token_f1
from bench.efficacy.sizes import SIZES, estimate
from bench.efficacy.task import Sizes, divide, write
from bench.efficacy.tasks import TASKS, procedural
from bench.efficacy.tell import table
from bench.efficacy.won import gaps
from bench.efficacy.work import work
from burnish import ModelRef
from burnish.coordinator.recipes.registry import METHODS
from burnish.coordinator.records import ModelRecord, StepRecord

ROWS = procedural.read(Path())[:100]


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return written(cell_in(tmp_path))


def written(cell: Cell) -> Cell:
    """With its data."""
    write(divide(ROWS, procedural.kinds, Sizes(20, 4, 6, 0.3), 0), cell.files.folder)
    return cell


def cell_in(folder: Path, **more: Any) -> Cell:
    values: dict[str, Any] = {
        "task": "procedural",
        "noise": 0.3,
        "seed": 0,
        "folder": str(folder),
        "arms": (NOISY, ORACLE),
        "keep": 0.6,
        "random_subsets": 2,
        "score_rows": 4,
        "max_tokens": 200,
        "model": "/model",
        "engine": "fake",
        "dtype": "auto",
        "training": {"num_epochs": 1.0},
        "settings": {},
        "until": float("inf"),
        "keep_models": False,
    }
    return Cell(**(values | more))


# --- arms


def test_a_cell_is_what_was_written(cell: Cell) -> None:
    assert Cell.parse(cell.text()) == cell


def test_arms_that_this_build_cannot_do_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Arm(Kind.RECIPE, "mads", lambda most: {"rule": "one that is to come"})
    monkeypatch.setitem(ARMS, "later", unknown)  # type: ignore[misc]
    monkeypatch.delitem(METHODS, "bds")
    known, lacking = there(["later", "bds", "mads", NOISY])
    assert known == [NOISY, "mads"]
    assert lacking == ["bds", "later"]


def test_published_recipes_are_in_every_build() -> None:
    assert {"mads", "middo", "clear", "bds", "bmo"} <= set(there(list(ARMS))[0])


@pytest.mark.parametrize("name", there(list(ARMS))[0])
def test_every_arm_of_this_build_has_settings_that_its_recipe_takes(cell: Cell, name: str) -> None:
    made = settings_for(cell, name)
    assert made.holdout == (str(cell.files.held_out),)
    assert made.training.seed == made.seed == 0
    assert made.model_dump().get("compare", False) is False
    assert made.model_dump().get("random_subsets", 0) == 0


@pytest.mark.parametrize(
    ("name", "more", "problem"),
    [
        ("bds", {"kepp": 0.5}, "kepp"),
        ("bds", {"keep": 2}, "keep"),
        ("bds", {"training": {"learning_rate": 1e-3}, "seed": 1}, "seed, training is the same for all arms"),
        (ORACLE, {"keep": 0.5}, "it has none of its own"),
        ("bds", {"keep": 0.5}, ""),
        ("outliers", {"outliers": 3.0}, ""),
    ],
)
def test_settings_that_an_arm_cannot_have_are_told_before_anything_runs(
    name: str, more: dict[str, Any], problem: str
) -> None:
    found = unfit(name, more)
    assert problem in found
    assert bool(problem) == bool(found)


def test_a_cell_in_which_nothing_is_to_be_done_is_done(tmp_path: Path) -> None:
    assert asyncio.run(work(cell_in(tmp_path, arms=()))) == []


def test_only_arms_that_are_trusted_with_it_get_the_clean_set(cell: Cell) -> None:
    clean = (str(cell.files.validation),)
    assert settings_for(cell, "bds").files()["validation"] == clean
    assert clean[0] not in str(settings_for(cell, "mads"))
    assert settings_for(cell, "mads").model_dump()["budget"] == 0.6
    assert settings_for(cell, "clear").model_dump()["propose"]["max_tokens"] == 48
    assert settings_for(cell_in(Path(cell.folder), settings={"bds": {"keep": 0.5}}), "bds").model_dump()["keep"] == 0.5


def test_arms_that_are_the_same_run_have_the_same_folder(tmp_path: Path) -> None:
    for noise in (0.0, 0.3):
        write(divide(ROWS, procedural.kinds, Sizes(20, 4, 6, noise), 0), tmp_path / f"{noise}" / "data")
    quiet, noisy = (cell_in(tmp_path / f"{noise}", noise=noise) for noise in (0.0, 0.3))
    folders = [[run_folder(one, settings_for(one, name)).name for name in (NOISY, ORACLE)] for one in (quiet, noisy)]
    assert folders[0][0] == folders[0][1]
    assert folders[1][0] != folders[1][1]


def test_a_control_is_rows_of_the_data_in_their_order_drawn_anew_each_time(cell: Cell) -> None:
    lines = cell.files.training.read_text().splitlines()
    one, other = (path.read_text().splitlines() for path in draws(cell, 12))
    for drawn in (one, other):
        assert len(drawn) == 12
        assert drawn == [line for line in lines if line in drawn]
    assert one != other
    assert [path.read_text().splitlines() for path in draws(cell, 12)] == [one, other]
    assert draws(cell, 20) == draws(cell, 25) == [], "all rows are no random ones"


# --- scores


def test_an_exact_match_minds_case_and_order_and_not_white_space() -> None:
    assert exact_match(" apple,  pear.\n", "apple, pear") == 1.0
    assert exact_match("APPLE, PEAR", "apple, pear") == 0.0
    assert exact_match("pear, apple", "apple, pear") == 0.0


def test_token_f1_is_squads() -> None:
    assert token_f1("The Eiffel Tower!", "eiffel tower") == 1.0
    assert token_f1("in the tower", "Eiffel tower") == pytest.approx(0.5)
    assert token_f1("no no yes", "no") == pytest.approx(0.5)
    assert token_f1("river", "tower") == 0.0
    assert token_f1("the", "a") == 1.0
    assert token_f1("", "tower") == 0.0


def test_the_same_number_is_that_of_the_last_line_or_else_the_last_one() -> None:
    right = "4 * 250 = 1,000\n#### 1,000"
    assert same_number("so it is\n#### 1000", right) == 1.0
    assert same_number("It makes $1,000.00 in 3 days\n#### 1000 dollars", right) == 1.0
    assert same_number("The answer is 1000.", right) == 1.0
    assert same_number("1000 or rather 12", right) == 0.0
    assert same_number("no idea", right) == 0.0
    assert same_number("#### -1000", right) == 0.0


# --- the gap


def held_out(means: float, rows: int = 200, seed: int = 0, noise: float = 0.3) -> HeldOut:
    """Rows around a mean; the same rows are hard for all models of a seed."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 30, rows).astype(float)
    values = sizes * (means + noise * rng.standard_normal(rows))
    return HeldOut(values * (means * sizes.sum() / values.sum()), sizes)


def test_the_gap_is_that_of_means_over_seeds() -> None:
    noisy, oracle, arm = [2.0, 2.1, 1.9, 2.0], [1.0, 1.2, 1.1, 1.0], [1.4, 1.6, 1.5, 1.4]
    found = recovered(noisy, oracle, arm)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.mean == pytest.approx(2.1 / 3.7)
    # Its ends are the shares of which the t test, one seed for one seed, is just not sure that they are wrong.
    won, lost = np.array(noisy) - np.array(arm), np.array(noisy) - np.array(oracle)
    for end in (found.low, found.high):
        assert ttest_1samp(won - end * lost, 0.0).pvalue == pytest.approx(0.05)
    same, nothing = Interval(1.0, 1.0, 1.0), Interval(0.0, 0.0, 0.0)
    for arm, told in ((oracle, same), (noisy, nothing)):
        made = recovered(noisy, oracle, arm)
        assert made is not None
        assert asdict(made) == pytest.approx(asdict(told), abs=1e-6)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int) -> None:
    rng = np.random.default_rng(1)
    told = covered = 0
    for _ in range(1000):
        # What makes a seed hard is hard for all three models.
        hard = 0.3 * rng.standard_normal(seeds)
        noisy, oracle, arm = (mean + hard + 0.03 * rng.standard_normal(seeds) for mean in (0.5, 0.3, 0.38))
        found = recovered(noisy, oracle, arm)
        if found is not None:
            told += 1
            # Not bounded: it holds every share.
            covered += found.low is None or found.high is None or found.low <= 0.6 <= found.high
    assert 0.93 < covered / told < 0.97


def test_an_interval_has_no_ends_where_that_noise_costs_anything_is_not_shown() -> None:
    oracle, arm = [1.0, 1.0, 1.0], [1.05, 1.1, 1.1]
    found = recovered([1.1, 1.5, 1.3], oracle, arm)
    assert found is not None
    assert (found.low, found.high) == (None, None)
    assert recovered([1.3], [1.0], [1.1]) == Interval(pytest.approx(2 / 3), None, None)


def test_no_gap_is_told_where_noise_did_no_harm() -> None:
    noisy, better = [2.0, 2.1], [1.5, 1.6]
    assert recovered(better, noisy, better) is None
    assert recovered(noisy, noisy, better) is None
    assert recovered(noisy, better, better, higher_is_better=True) is None
    assert recovered([2.0, 1.6], [1.5, 1.7], better) is None
    scores = recovered(better, noisy, noisy, higher_is_better=True)
    assert scores is not None
    assert scores.mean == pytest.approx(1.0)


# --- costs


def step(name: str, seconds: float, done: int = 0, reused: int = 0, round_number: int = 1) -> StepRecord:
    now = datetime.now(UTC)
    return StepRecord(round_number, 0, name, "done", done, done, reused, seconds, now, now, {})


def trained(round_number: int, seconds: float) -> ModelRecord:
    return ModelRecord(round_number, "trained", "m", "d", f"run-{round_number}", None, None, {"seconds": seconds})


def test_what_was_taken_over_costs_as_much_as_where_it_was_made() -> None:
    base = ModelRecord(0, "base", "b", "d", None, None, None, {})
    first = [step("score_pre", 10.0, done=100), step("train", 62.0), step("evaluate", 9.0, done=50)]
    second = [step("score_pre", 0.1, done=100, reused=100), step("train", 0.2), step("evaluate", 3.0, done=50)]
    per_item = rates([*first, *second])
    assert per_item["score_pre"] == pytest.approx(0.1)
    assert cost(first, [base, trained(1, 60.0)], per_item) == pytest.approx(72.0)
    assert cost(second, [base, trained(1, 60.0)], per_item) == pytest.approx(0.1 + 10.0 + 60.0)


def test_a_training_is_paid_for_once_and_in_full() -> None:
    tried, taken = step("train", 61.0, round_number=33), step("train", 0.2, round_number=2)
    again = replace(trained(2, 60.0), training_run=trained(33, 60.0).training_run)
    assert cost([tried, taken], [trained(33, 60.0), again], {}) == pytest.approx(61.2)
    # Killed while it was waited for; the coordinator waited for the rest alone.
    assert cost([step("train", 20.0)], [trained(1, 60.0)], {}) == pytest.approx(60.0)


# --- the report


def measured(kind: Kind, loss: float, score: float, seed: int, seconds: float = 50.0) -> Measured:
    scores = HeldOut(np.full(10, score), np.ones(10))
    judged = detection({"a": 1.0, "x": 0.0}, {"x"}, {"x": "slip"}) if kind is Kind.RECIPE else None
    return Measured(kind, held_out(loss, seed=seed), scores, 7, 30.0, seconds, judged)


def test_the_report_says_what_was_won_back_and_at_what_price(tmp_path: Path) -> None:
    cells = []
    for seed in range(3):
        arms = {
            NOISY: measured(Kind.NOTHING, 2.0, 0.2, seed),
            ORACLE: measured(Kind.ORACLE, 1.0, 0.6, seed),
            "bds": measured(Kind.RECIPE, 1.5, 0.5, seed),
            control_of("bds"): measured(Kind.CONTROL, 2.1, 0.2, seed),
        }
        cells.append(record_of(Found(written(cell_in(tmp_path, seed=seed)), 10, 3, 3.0, arms)))
    gap = gaps(cells)["procedural"]["0.3"]
    assert gap["bds"][LOSS]["mean"] == pytest.approx(0.5)
    assert gap["bds"][SCORE]["mean"] == pytest.approx(0.75)
    assert gap["bds"]["seconds_per_point"] == pytest.approx(1.0)
    assert gap[control_of("bds")]["seconds_per_point"] is None
    of_two = gaps(cells[:2])["procedural"]["0.3"]["bds"][LOSS]
    assert (of_two["low"], of_two["high"]) == (None, None), "two seeds make no interval, however alike they are"
    alone = gaps(cells[:1])["procedural"]["0.3"]["bds"]
    assert alone[LOSS]["mean"] == pytest.approx(0.5)
    assert alone[SCORE] is None, "one answer more or less would be the whole of it"
    first = cells[0]
    assert first["signals"] == {"bds": {**first["signals"]["bds"], "auroc": 1.0, "precision": 1.0, "recall": 1.0}}
    assert first["arms"]["bds"]["kind"] == "recipe"
    assert (first["score_name"], first["rows"], first["wrong"]) == ("exact match", 10, 3)
    assert "50%" in table(cells, gaps(cells))


def test_without_noise_no_gap_is_told(tmp_path: Path) -> None:
    arms = {NOISY: measured(Kind.NOTHING, 2.0, 0.2, 0), "bds": measured(Kind.RECIPE, 1.9, 0.2, 0)}
    arms[ORACLE] = measured(Kind.ORACLE, 1.0, 0.6, 0)
    found = gaps([record_of(Found(written(cell_in(tmp_path, noise=0.0)), 10, 0, None, arms))])["procedural"]["0"]["bds"]
    assert found == {LOSS: None, SCORE: None, "seconds_per_point": None}


def test_small_is_reckoned_to_end_in_forty_minutes_on_two_slow_cores() -> None:
    size = SIZES["small"]
    rows = Fitting((), tokens=44.0, answer_tokens=10.0)
    total = expected_of(size, {"procedural": rows}, size.arms, {})
    assert total.models == size.seeds * (len(size.arms) + size.random_subsets) + 1  # the base is trained as well
    assert size.tasks == ("procedural",)
    assert size.seeds >= 3
    assert 10 * 60 < total.seconds < 40 * 60, str(total)
    measured = {("procedural", 0.3, seed): {"arms": dict.fromkeys(size.arms)} for seed in range(size.seeds)}
    more = expected_of(size, {"procedural": rows}, [*size.arms, "bds"], measured)
    assert more.models == size.seeds * (2 + size.random_subsets) + 1


def test_a_base_that_was_trained_anew_is_another_cell(tmp_path: Path) -> None:
    """In the place of the old one: what was trained from that one must not be taken for the new one's."""
    own = {"keep": 0.7, "batch_tokens": None, "settings": {}, "per_device": 4, "packing": False}
    own |= {"checkpoint_steps": None, "keep_models": False, "out": tmp_path, "model": Path("model")}
    given = argparse.Namespace(**asdict(replace(SIZES["small"], rows=20, validation_rows=4, held_out_rows=6)), **own)
    folders = set()
    for digest in ("sha256:one", "sha256:one", "sha256:other"):
        made = cells(given, "procedural", ROWS, [NOISY], ModelRef("the base", digest), float("inf"))
        assert len(made) == SIZES["small"].seeds
        folders |= {cell.folder for cell in made}
    assert len(folders) == 2 * SIZES["small"].seeds


def test_the_whole_grid_has_every_kind_of_flaw() -> None:
    of_answers = TASKS["procedural"].kinds(ROWS, SIZES["full"].flaws)
    assert {*TASKS["procedural"].kinds(ROWS, SIZES["gpu"].flaws)} == {*of_answers, VAGUE, DUPLICATE}


def test_every_arm_can_be_reckoned() -> None:
    rows = Fitting((), tokens=55.0, answer_tokens=11.0)
    for size in SIZES.values():
        for arm in size.arms:
            assert estimate("procedural", [arm], rows, size).seconds > 0
