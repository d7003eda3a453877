"""Whole runs of bilevel data selection: against fake services, which say who was asked for what, and on the fake
engine, whose training service is real but for the training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from burnish import Client
from burnish.coordinator.errors import DataError, Interrupted, RunMismatch, StepFailed
from burnish.coordinator.loop import RunOptions, RunSummary, resume, run_recipe
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.report.collect import collect
from burnish.report.data import BdsRound
from burnish.report.render import render
from burnish.testing import FakeServices
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.killing import Work, run_in_child
from tests.e2e.support import ROWS, Watcher, digest_of_final, history, write_jsonl


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    """Six trusted samples, two of which answer prompts of the data anew."""
    rows = [{**row, "output": "A trusted answer."} for row in ROWS[:2]]
    return write_jsonl(tmp_path / "validation.jsonl", rows + [{**row, "instruction": "Else?"} for row in ROWS[2:6]])


def selected(client: Client, data: Path, out: Path, watcher: Watcher | None = None, **more: Any) -> RunSummary:
    settings = BdsSettings(**({"data": str(data), "model": "base", "seed": 7} | more))
    return run_recipe(settings, client, out, options=RunOptions(batch_size=10), observer=watcher)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_data_that_hold_nothing_to_validate_by_are_refused(client: Client, tmp_path: Path) -> None:
    same = write_jsonl(tmp_path / "same.jsonl", ROWS[:6])
    with pytest.raises(DataError, match="every prompt of the data is in the held-out data as well"):
        selected(client, same, tmp_path / "out", holdout=str(same), validation_split=2)


def test_who_is_asked_for_what(
    fakes: FakeServices, client: Client, data: Path, holdout: Path, validation: Path, tmp_path: Path
) -> None:
    watcher, out = Watcher(), tmp_path / "out"
    summary = selected(client, data, out, watcher, holdout=str(holdout), validation=str(validation), keep=0.5)
    # Of 43 rows two and their two copies ask what the validation set asks; half of the others are kept.
    assert (summary.rows_in, summary.rows_out) == (43, 19)
    assert [s.name for s in watcher.steps] == [
        *("read", "split", "evaluate", "train", "evaluate", "weigh", "decide", "assemble"),
        *("train", "evaluate") * 6,
    ]
    runs = [request.spec for request in fakes.requests("CreateRun")]
    assert [spec.HasField("bilevel") for spec in runs] == [True] + [False] * 6
    learning = runs[0]
    assert learning.hyperparameters.num_epochs == 3
    assert learning.bilevel.weighting == "sigmoid"
    assert [one["messages"][-1]["content"] for one in lines(Path(learning.bilevel.validation_data_uri))[:2]] == [
        "A trusted answer."
    ] * 2
    assert {spec.base_model.uri for spec in runs} == {"base"}
    trained_on = [len(lines(out / f"data/round-{number}.jsonl")) for number in range(1, 8)]
    # The data, what is kept, both sets, the validation set alone, and three random subsets.
    assert trained_on == [39, 19, 45, 6, 19, 19, 19]
    prompts = [
        {line["messages"][0]["content"] for line in lines(out / f"data/{name}.jsonl")}
        for name in ("round-1", "validation")
    ]
    assert not prompts[0] & prompts[1]
    alone = runs[3].hyperparameters
    assert (alone.num_epochs, alone.max_steps) == (3, 3), "as many steps as what was kept took"
    assert summary.final_model is not None
    assert summary.final_model.round == 2


def test_what_is_kept_weighs_most_and_the_history_is_in_the_ledger(
    client: Client, data: Path, validation: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    selected(client, data, out, validation=str(validation), keep=0.25)
    with history(out) as h:
        decided = h.decisions(1)
        steps = h.weight_steps(1)
        first, last = (h.weights(1, step) for step in (steps[0], steps[-1]))
    assert steps == [1, 2, 3]
    assert first.keys() == last.keys()
    assert len(last) == 39
    assert all(abs(last[name].logit) >= abs(first[name].logit) for name in last)
    kept = {one.row_id for one in decided if one.actions[0] == "keep"}
    assert Counter(one.actions[0] for one in decided) == {"keep": 9, "drop": 30, "validate": 4}
    assert min(last[name].logit for name in kept) >= max(last[name].logit for name in last.keys() - kept)
    final = lines(out / "final/data.jsonl")
    assert {row["id"] for row in final} == kept
    assert all(row["task"] for row in final)
    gone = lines(out / "final/dropped.jsonl")
    assert len(gone) == 34, "with those of the validation set, and why"


def test_a_part_of_the_data_can_be_held_out_as_validation_set(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = selected(client, data, out, validation_split="20%", keep=1.0)
    held = lines(out / "data/validation.jsonl")
    assert summary.rows_out == 43 - len(held)
    assert 9 <= len(held) <= 10
    assert len(fakes.requests("CreateRun")) == 2, "without held-out data there is nothing to compare by"


def test_what_is_judged_by_is_not_learnt_from(client: Client, data: Path, holdout: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="5 samples are in the validation set and in the held-out data"):
        selected(client, data, tmp_path / "out", holdout=str(holdout), validation=str(holdout))
    with pytest.raises(DataError, match="every prompt of the data is in the validation set"):
        selected(client, data, tmp_path / "all", validation=str(data))


class StopAfter(Watcher):
    """Interrupts a run after a step."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def step_finished(self, step: Any) -> None:
        if step.name == self.name:
            raise Interrupted("enough")


def test_a_validation_set_that_shares_held_out_rows_can_be_mended_and_the_command_repeated(
    client: Client, data: Path, holdout: Path, validation: Path, tmp_path: Path
) -> None:
    out, good = tmp_path / "out", validation.read_bytes()
    validation.write_bytes(good + holdout.read_bytes())
    with pytest.raises(DataError, match="5 samples are in the validation set and in the held-out data, the first: val"):
        selected(client, data, out, validation=str(validation), holdout=str(holdout))
    with history(out) as h:
        assert h.run.source is None
    validation.write_bytes(good)
    with pytest.raises(RunMismatch, match="It has read no data yet: repeat the command that began it"):
        resume(out, client)
    assert selected(client, data, out, validation=str(validation), holdout=str(holdout)).rows_out > 0


def test_validation_files_that_changed_before_they_were_read_are_refused(
    client: Client, data: Path, validation: Path, tmp_path: Path
) -> None:
    out, good = tmp_path / "out", validation.read_bytes()
    with pytest.raises(Interrupted):
        selected(client, data, out, StopAfter("read"), validation=str(validation))
    validation.write_bytes(good + good)
    with pytest.raises(
        DataError, match=r"The files of the validation set \(.*\) have changed since this run was begun"
    ):
        resume(out, client)
    validation.write_bytes(good)
    assert resume(out, client).rows_out > 0


def test_a_changed_validation_set_is_noticed(client: Client, data: Path, validation: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        selected(client, data, out, StopAfter("split"), validation=str(validation))
    (out / "data/validation.jsonl").write_text("{}\n")
    with pytest.raises(StepFailed, match=r"validation\.jsonl is gone or changed"):
        selected(client, data, out, validation=str(validation))


def test_weights_that_the_service_has_forgotten_are_learnt_again(
    fakes: FakeServices, client: Client, data: Path, validation: Path, tmp_path: Path
) -> None:
    calm = selected(client, data, tmp_path / "calm", validation=str(validation))
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        selected(client, data, out, StopAfter("train"), validation=str(validation))
    before = len(fakes.requests("CreateRun"))
    fakes._state.runs.clear()  # BURNISH_TRAINING_KEEP_ENDED_SECONDS later
    watcher = Watcher()
    summary = selected(client, data, out, watcher, validation=str(validation))
    assert summary.rows_out == calm.rows_out
    assert any("and with it the weights that it learnt; it is trained again" in note for note in watcher.notes)
    assert len(fakes.requests("CreateRun")) == before + 2, "for the weights, and on what was selected"
    with history(out) as h:
        assert h.weight_steps(1)


def test_weights_that_are_lost_while_they_are_fetched_say_where_they_went(
    fakes: FakeServices, client: Client, data: Path, validation: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fakes.fail_next("ReadSampleWeights", grpc.StatusCode.NOT_FOUND, "gone", reason="RUN_NOT_FOUND")
    with pytest.raises(StepFailed, match=r"BURNISH_TRAINING_KEEP_ENDED_SECONDS .*Run the same command again"):
        selected(client, data, out, validation=str(validation))
    assert selected(client, data, out, validation=str(validation)).rows_out > 0


def test_a_killed_run_ends_as_an_undisturbed_one(
    services: FakeEngineServices, data: Path, holdout: Path, validation: Path, tmp_path: Path
) -> None:
    settings = {
        "data": str(data),
        "holdout": str(holdout),
        "validation": str(validation),
        "model": str(services.model),
        "seed": 3,
        "random_subsets": 1,
        "training": {"gradient_accumulation_steps": 1},
    }

    def run(out: Path, step: str = "", number: int = 0) -> int:
        return run_in_child(Work(services.address, "bds", settings, out, killed_after=(step, number)))

    assert run(tmp_path / "calm") == 0
    for step, number in (("split", 1), ("train", 1), ("weigh", 1), ("decide", 1), ("train", 2)):
        assert run(tmp_path / "rough", step, number) == -9, (step, number)
    assert run(tmp_path / "rough") == 0
    assert digest_of_final(tmp_path / "rough") == digest_of_final(tmp_path / "calm")
    with history(tmp_path / "rough") as h:
        data_of = collect(h)
        assert len(h.weight_steps(1)) == 3
    (only,) = data_of.rounds
    assert isinstance(only, BdsRound)
    assert [arm.name.split(" ")[0] for arm in data_of.short.arms] == ["nothing", "what", "all", "all", "the", "random"]
    page = render(data_of)
    assert "direct mixing" in page
    assert "What was kept is not better than chance" in page
