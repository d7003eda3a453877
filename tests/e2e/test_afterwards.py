"""What is trained after a recipe's end to compare with: all rows, random ones, and those that are known to be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish import Client, Endpoints
from burnish.coordinator.arms import ALL_ROWS, RANDOM, RIGHT_ROWS, ArmKind
from burnish.coordinator.errors import DataError, InputError, Interrupted
from burnish.coordinator.loop import RunOptions, finished, run_recipe
from burnish.coordinator.progress import StepProgress
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.truth import checked, read_truth
from burnish.report.collect import collect
from burnish.report.render import render
from burnish.testing import FakeServices
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.killing import Work, run_in_child
from tests.e2e.support import ROWS, Watcher, digest_of_final, history, settings, write_jsonl

WRONG = [f"s{i}" for i in range(0, 40, 4)]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "truth.jsonl", [{"id": name, "flaw": "swapped"} for name in WRONG])


def trained_on(out: Path, round_number: int) -> list[str]:
    lines = (out / f"data/round-{round_number}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["id"] for line in lines]


def trained(out: Path) -> list[int]:
    with history(out) as h:
        return [m.round for m in h.models() if m.role == "trained" and m.eval_loss is not None]


def test_what_a_recipe_is_compared_with(
    fakes: FakeServices, client: Client, data: Path, holdout: Path, truth: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ClearSettings(data=str(data), holdout=str(holdout), model="base", seed=7, eta=0.6)
    options = RunOptions(truth=str(truth), compare=True, oracle=True, random_subsets=2)
    made = run_recipe(asked, client, out, options=options)
    assert trained(out) == [1, 2, ALL_ROWS, RIGHT_ROWS, RANDOM, RANDOM + 1]
    ids = [row["id"] for row in ROWS]
    assert trained_on(out, ALL_ROWS) == ids
    assert trained_on(out, RIGHT_ROWS) == [name for name in ids if name not in WRONG]
    drawn = [trained_on(out, RANDOM), trained_on(out, RANDOM + 1)]
    assert [len(rows) for rows in drawn] == [made.rows_out] * 2
    assert drawn[0] != drawn[1]
    seeds = [request.spec.hyperparameters.seed for request in fakes.requests("CreateRun")][1:]
    assert len(set(seeds)) == 1, "all as the run's own model"
    with history(out) as h:
        report = collect(h, truth=str(truth))
    short = report.short
    assert short is not None
    assert {arm.kind: (len(arm.losses), len(arm.scores)) for arm in short.arms if arm.kind is not ArmKind.OTHER} == {
        **dict.fromkeys((ArmKind.BASE, ArmKind.RUN, ArmKind.ALL, ArmKind.ORACLE), (1, 1)),
        ArmKind.RANDOM: (2, 2),
    }
    assert {len(scores) for arm in short.arms for scores in arm.scores} == {5}, "every held-out row"
    assert short.flow is not None
    assert (short.flow.rows_in, short.flow.rows_out) == (43, made.rows_out)
    assert short.gap is not None
    assert bool(short.gap.untold) == (short.gap.value is None)
    assert report.models[-1].label == "trained on what this run made"
    assert {t.part for t in report.last_timings} == {"start", "final", "to compare with"}
    (against,) = report.truth
    assert {one.flaw: one.touched.whole for one in against.outcomes} == {"swapped": 10, "": 33}
    page = render(report)
    assert page.count('class="range"') == 2, "of the random ones, wide and narrow"
    assert "trained on right rows only" in page


def test_where_nothing_was_dropped_only_the_order_is_left_to_chance(
    fakes: FakeServices, client: Client, data: Path, holdout: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_recipe(settings(data, holdout=str(holdout)), client, out, options=RunOptions(compare=True, random_subsets=2))
    assert trained(out) == [1, 2, ALL_ROWS, RANDOM, RANDOM + 1]
    assert trained_on(out, ALL_ROWS) == trained_on(out, RANDOM) == [row["id"] for row in ROWS]
    seeds = [request.spec.hyperparameters.seed for request in fakes.requests("CreateRun")]
    assert seeds[2] == seeds[1], "as the run's own model"
    assert len(set(seeds[1:])) == 3


def test_a_finished_run_is_added_to_and_is_not_done_before(
    services: FakeEngineServices, data: Path, holdout: Path, truth: Path, tmp_path: Path
) -> None:
    out, asked = tmp_path / "out", settings(data, holdout=str(holdout), model=str(services.model))
    with Client(Endpoints.at(services.address)) as client:
        run_recipe(asked, client, out)
        before = digest_of_final(out)
        assert finished(asked, out) is not None
        options = RunOptions(truth=str(truth), oracle=True)
        assert finished(asked, out, options) is None
        watcher = Watcher()
        run_recipe(asked, client, out, options=options, observer=watcher)
    assert finished(asked, out, options) is not None
    assert trained(out) == [1, 2, RIGHT_ROWS], "a round of the recipe was all rows"
    assert [(step.round, step.name) for step in watcher.steps] == [(RIGHT_ROWS, "train"), (RIGHT_ROWS, "evaluate")]
    assert digest_of_final(out) == before
    assert finished(asked, out, options.model_copy(update={"compare": True})) is None
    # A truth that was corrected since is no longer what that model was trained on.
    write_jsonl(truth, [{"id": name, "flaw": "swapped"} for name in WRONG[1:]])
    assert finished(asked, out, options) is None
    with (
        Client(Endpoints.at(services.address)) as client,
        pytest.raises(DataError, match="What is known to be right has changed since"),
    ):
        run_recipe(asked, client, out, options=options)


def test_a_truth_that_was_corrected_between_training_and_measuring_is_noticed(
    client: Client, data: Path, holdout: Path, truth: Path, tmp_path: Path
) -> None:
    class Stopper(Watcher):
        def step_finished(self, step: StepProgress) -> None:
            if (step.round, step.name) == (RIGHT_ROWS, "train"):
                raise Interrupted("here")

    out, asked = tmp_path / "out", settings(data, holdout=str(holdout), axes=["hard"])
    options = RunOptions(truth=str(truth), oracle=True)
    with pytest.raises(Interrupted):
        run_recipe(asked, client, out, options=options, observer=Stopper())
    as_it_was = truth.read_text(encoding="utf-8")
    write_jsonl(truth, [{"id": name, "flaw": "swapped"} for name in WRONG[1:]])
    with pytest.raises(DataError, match="What is known to be right has changed since"):
        run_recipe(asked, client, out, options=options)
    truth.write_text(as_it_was, encoding="utf-8")
    run_recipe(asked, client, out, options=options)
    assert trained(out) == [1, 2, RIGHT_ROWS]


def test_a_recipe_that_compares_by_itself_gets_only_what_it_lacks(
    client: Client, data: Path, holdout: Path, truth: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more: dict[str, Any] = {"validation_split": 4, "random_subsets": 1, "seed": 7}
    asked = BdsSettings(data=str(data), holdout=str(holdout), model="base", **more)
    run_recipe(asked, client, out, options=RunOptions(truth=str(truth), oracle=True))
    assert trained(out) == [1, 2, 3, 4, 5, ALL_ROWS, RIGHT_ROWS]
    with history(out) as h:
        aside = {one.row_id for one in h.decisions(1) if one.actions[0] == "validate"}
    ids = [row["id"] for row in ROWS if row["id"] not in aside]
    assert len(aside) >= 4
    assert trained_on(out, ALL_ROWS) == ids
    assert trained_on(out, RIGHT_ROWS) == [name for name in ids if name not in WRONG]


def test_truth_about_other_rows_is_refused_before_anything_is_done(data: Path, tmp_path: Path) -> None:
    asked = settings(data)
    elsewhere = write_jsonl(tmp_path / "elsewhere.jsonl", [{"id": 1, "flaw": "swapped"}])
    with pytest.raises(DataError, match=r"none of its 1 ids, such as '1', is a row of the data; rows are called 's0'"):
        checked(str(elsewhere), asked)
    nothing = write_jsonl(tmp_path / "nothing.jsonl", [{"id": "s1"}])
    with pytest.raises(DataError, match="line 1: expected a JSON object with `id` and `flaw`, `response`, or both"):
        checked(str(nothing), asked)


def test_a_column_of_right_responses_may_hold_numbers_and_may_be_silent(
    fakes: FakeServices, client: Client, tmp_path: Path
) -> None:
    rows = [
        {**row, "output": str(number), "right": right}
        for number, (row, right) in enumerate(zip(ROWS, [0, 7, None, "3"], strict=False))
    ]
    rows.append({**ROWS[4]})  # missing is as null
    data, out = write_jsonl(tmp_path / "numbers.jsonl", rows), tmp_path / "out"
    run_recipe(settings(data), client, out)
    with history(out) as h:
        known = read_truth(h, "right")
    assert {name: one.flaw for name, one in known.items()} == {"s0": "", "s1": "wrong", "s3": ""}


def test_without_a_model_there_is_nothing_to_compare(client: Client, data: Path, holdout: Path, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", Watcher()
    asked = ClearSettings(data=str(data), holdout=str(holdout), model="base", filter_only=True)
    options = RunOptions(compare=True)
    run_recipe(asked, client, out, options=options, observer=watcher)
    assert any("nothing to compare" in note for note in watcher.notes)
    assert finished(asked, out, options) is not None


def test_what_cannot_be_compared_is_refused_before_anything_is_done(
    client: Client, data: Path, truth: Path, tmp_path: Path
) -> None:
    for options in (RunOptions(compare=True), RunOptions(oracle=True, truth=str(truth))):
        with pytest.raises(InputError, match="give them with --holdout"):
            run_recipe(settings(data), client, tmp_path / "out", options=options)
    with pytest.raises(ValueError, match="say which are wrong with `truth`"):
        RunOptions(oracle=True)
    assert not (tmp_path / "out").exists()


def test_killed_while_it_compares_a_run_ends_as_an_undisturbed_one(
    services: FakeEngineServices, data: Path, holdout: Path, truth: Path, tmp_path: Path
) -> None:
    asked = {"data": str(data), "holdout": str(holdout), "model": str(services.model), "seed": 3}
    options = RunOptions(truth=str(truth), compare=True, oracle=True, random_subsets=1)

    def run(out: Path, step: str = "", number: int = 0) -> int:
        assert finished(ClearSettings(**asked), out, options) is None
        return run_in_child(Work(services.address, "clear", asked, out, options, (step, number)))

    assert run(tmp_path / "calm") == 0
    kills = (("train", ALL_ROWS), ("evaluate", RIGHT_ROWS), ("train", RANDOM), ("evaluate", RANDOM))
    for step, number in kills:
        assert run(tmp_path / "rough", step, number) == -9, (step, number)
    if finished(ClearSettings(**asked), tmp_path / "rough", options) is None:
        assert run(tmp_path / "rough") == 0
    assert finished(ClearSettings(**asked), tmp_path / "rough", options) is not None
    losses = []
    for name in ("calm", "rough"):
        with history(tmp_path / name) as h:
            losses.append({m.round: m.eval_loss for m in h.models()})
    assert losses[0] == losses[1]
    assert None not in losses[0].values()
    assert digest_of_final(tmp_path / "rough") == digest_of_final(tmp_path / "calm")
