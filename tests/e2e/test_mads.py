"""Whole runs of MADS-style selection: against fake services, which say who was asked for what, and on the fake
engine, whose neurons are real enough to be covered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish import Client, CoverageObjective, Message, PreconditionFailed, Role
from burnish.cli.explain import told
from burnish.coordinator.errors import Interrupted, RunMismatch, StepFailed
from burnish.coordinator.loop import RunOptions, RunSummary, run_recipe
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.story import story_of
from burnish.report.collect import collect
from burnish.report.data import MadsRound
from burnish.report.render import render
from burnish.testing import FakeServices
from burnish_services.engine.fake import write_fake_model
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import Watcher, alpaca, digest_of_final, history, write_jsonl


def chosen(client: Client, data: Path, out: Path, watcher: Watcher | None = None, **more: Any) -> RunSummary:
    is_calibrated = "objective" not in more and more.get("rule") != "top_k"
    fewer = {"calibration_size": 20} if is_calibrated else {}
    settings = MadsSettings(**({"data": str(data), "model": "base", "seed": 7} | fewer | more))
    return run_recipe(settings, client, out, options=RunOptions(batch_size=10), observer=watcher)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_who_is_asked_for_what(fakes: FakeServices, client: Client, data: Path, holdout: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    out = tmp_path / "out"
    summary = chosen(client, data, out, watcher, holdout=str(holdout), selector="selector")
    assert (summary.rows_in, summary.rows_out) == (43, 6)
    embedded = [sample.id for request in fakes.requests("EmbedSamples") for sample in request.samples]
    assert len(embedded) == len(set(embedded)) == 40, "duplicates count once"
    measured = [sample.id for request in fakes.requests("MeasureSamples") for sample in request.samples]
    assert len(measured) == len(set(measured)) == 20
    assert {r.model.uri for r in fakes.requests("EmbedSamples")} == {"selector"}
    assert {r.spec.base_model.uri for r in fakes.requests("CreateRun")} == {"base"}
    (select,) = fakes.requests("SelectCoverage")
    assert (select.budget, len(select.candidates), select.num_random_curves) == (6, 40, 3)
    assert [s.name for s in watcher.steps] == [
        *("read", "calibrate", "features", "select", "project", "assemble", "evaluate"),
        *("train", "evaluate") * 5,
    ]
    trained_on = [len(lines(out / f"data/round-{number}.jsonl")) for number in range(1, 6)]
    assert trained_on == [43, 6, 6, 6, 6], "all rows, the core set, and three random subsets of its size"
    assert len({(out / f"data/round-{number}.jsonl").read_text() for number in range(2, 6)}) == 4
    seeds = {r.spec.hyperparameters.seed for r in fakes.requests("CreateRun")}
    assert len(seeds) == 1
    assert summary.final_model is not None
    assert summary.final_model.round == 2


def test_what_is_kept_is_what_was_picked(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    chosen(client, data, out, budget=10, select_only=True)
    with history(out) as h:
        decided = h.decisions(1)
        story = story_of(h, "s3")
    actions = Counter(one.actions[0] for one in decided)
    assert actions == {"keep": 10, "drop": 33}
    kept = [one.row_id for one in decided if one.actions[0] == "keep"]
    assert [row["id"] for row in lines(out / "final/data.jsonl")] == kept, "in the order of the source, columns and all"
    assert all(row["task"] for row in lines(out / "final/data.jsonl"))
    ranks = sorted(one.signals["rank"] for one in decided if one.actions[0] == "keep")
    assert ranks == list(range(1, 11))
    assert {one.hints[0] for one in decided if one.actions[0] == "drop"} <= set(kept)
    assert len(lines(out / "final/dropped.jsonl")) == 33
    assert story.rounds[0].decision is not None
    assert story.rounds[0].workers[0].did == "said which of its neurons it excites"


def test_a_finished_run_asks_for_nothing_and_another_on_its_service_for_little(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    chosen(client, data, tmp_path / "one", select_only=True)
    calls = len(fakes.requests("EmbedSamples"))
    chosen(client, data, tmp_path / "one", select_only=True)
    assert len(fakes.requests("EmbedSamples")) == calls
    measured = len(fakes.requests("MeasureSamples"))
    chosen(client, data, tmp_path / "two", select_only=True, budget=5)
    assert len(fakes.requests("MeasureSamples")) == measured, "a calibration that is finished is found by its name"


def test_boundaries_of_length_reach_the_service_with_a_calibration_of_their_own(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    for name, more in (("plain", {}), ("apart", {"length_boundaries": "8,64"})):
        chosen(client, data, tmp_path / name, select_only=True, **more)
    asked = [request.calibration for request in fakes.requests("CreateCalibration")]
    assert [list(one.length_boundaries) for one in asked] == [[], [8, 64]]
    assert len({one.name for one in asked}) == 2
    used = [r.collection.features.calibration for r in fakes.requests("CreateCollection")]
    assert used == [one.name for one in asked]
    with pytest.raises(RunMismatch, match="length_boundaries"):
        chosen(client, data, tmp_path / "apart", select_only=True)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_smallest_sets(client: Client, tmp_path: Path, rows: int) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(rows))
    more: dict[str, Any] = {"rule": "top_k"} if rows == 1 else {}
    summary = chosen(client, data, tmp_path / "out", budget=2, select_only=True, **more)
    assert summary.rows_out == min(rows, 2)


@pytest.mark.parametrize("moment", ["calibrate", "features", "select", "project", "assemble"])
def test_stopped_at_any_step_it_goes_on(
    client: Client, fakes: FakeServices, data: Path, tmp_path: Path, moment: str
) -> None:
    class Stopping(Watcher):
        def step_started(self, step: Any) -> None:
            super().step_started(step)
            if step.name == moment:
                raise Interrupted("here")

    with pytest.raises(Interrupted):
        chosen(client, data, tmp_path / "out", Stopping(), select_only=True)
    chosen(client, data, tmp_path / "out", select_only=True)
    chosen(client, data, tmp_path / "whole", select_only=True)
    assert digest_of_final(tmp_path / "out") == digest_of_final(tmp_path / "whole")


def test_vectors_that_are_gone_are_computed_anew(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    class Losing(Watcher):
        def step_finished(self, step: Any) -> None:
            if step.name == "features":
                raise Interrupted("here")

    watcher = Watcher()
    with pytest.raises(Interrupted):
        chosen(client, data, tmp_path / "out", Losing(), select_only=True)
    for collection in client.embedding.list_collections():
        client.embedding.delete_collection(collection.name)
    chosen(client, data, tmp_path / "out", watcher, select_only=True)
    assert any("embedding anew" in note for note in watcher.notes)


# ---- on the fake engine


def run(services: FakeEngineServices, data: Path, out: Path, watcher: Watcher | None = None, **more: Any) -> RunSummary:
    with Client(services.address) as client:
        return chosen(client, data, out, watcher, model=str(services.model), **more)


def test_the_core_set_covers_more_than_chance_and_the_report_says_so(
    services: FakeEngineServices, data: Path, holdout: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = run(services, data, out, holdout=str(holdout))
    assert summary.rows_out == 6
    with history(out) as h:
        report = collect(h)
        detail = next(step.detail for step in h.steps() if step.name == "select")
    (round_,) = report.rounds
    assert isinstance(round_, MadsRound)
    assert round_.curve is not None
    assert round_.curve.value[-1] > max(curve.value[-1] for curve in round_.random_curves)
    assert [arm.name for arm in report.short.arms] == [
        *("nothing (the base model)", "the core set", "all rows", "random subsets of the same size")
    ]
    assert [len(arm.losses) for arm in report.short.arms] == [1, 1, 1, 3]
    assert report.models[-1].label == "trained on the core set"
    page = render(report)
    assert "trained on random subset 3" in page
    assert "What the selection covers" in page
    assert round_.map is not None
    assert {action: len(points) for action, points in round_.map.points.items()} == {"keep": 6, "drop": 37}
    assert page.count("<circle") == 43
    assert str(detail["num_features"]) in page


def test_samples_of_other_lengths_are_standardised_apart(
    services: FakeEngineServices, data: Path, tmp_path: Path
) -> None:
    assert run(services, data, tmp_path / "out", length_boundaries=[40], select_only=True).rows_out == 6
    with history(tmp_path / "out") as h:
        name = next(step.detail["calibration"] for step in h.steps() if step.name == "features")
    with Client(services.address) as client:
        found = client.embedding.get_calibration(str(name))
    assert (found.length_boundaries, found.num_samples) == ((40,), 20)
    assert found.version


@pytest.mark.parametrize("objective", [CoverageObjective.FACILITY_LOCATION, CoverageObjective.K_CENTER])
def test_objectives_on_vectors_need_no_calibration(
    services: FakeEngineServices, data: Path, tmp_path: Path, objective: CoverageObjective
) -> None:
    out = tmp_path / "out"
    assert run(services, data, out, objective=objective, select_only=True).rows_out == 6
    with history(out) as h:
        names = [step.name for step in h.steps()]
        page = render(collect(h))
    assert "calibrate" not in names
    assert "What the selection covers" not in page
    assert "compared with nothing" in page


def test_samples_that_cannot_be_read_are_told_and_left_out(services: FakeEngineServices, tmp_path: Path) -> None:
    curt = [{"id": "curt", "instruction": "Why?", "input": "", "output": "So"}]
    late = [{"id": "late", "instruction": "why " * 1100, "input": "", "output": "So it is."}]
    rows = [*alpaca(10), *curt, *late]
    watcher = Watcher()
    run(services, write_jsonl(tmp_path / "data.jsonl", rows), tmp_path / "out", watcher, budget=5, select_only=True)
    assert any(note.startswith("1 of 12 samples could not be read") for note in watcher.notes)
    with history(tmp_path / "out") as h:
        decided = {one.row_id: one for one in h.decisions(1)}
        report = collect(h)
    assert decided["curt"].actions != ("unread",), "a short response is read with what comes before it"
    assert decided["late"].actions == ("unread",)
    assert "0 tokens to read the response's activations from" in decided["late"].reasons[0]
    (round_,) = report.rounds
    assert [(f.reason, f.count) for f in round_.failures] == [("UNREAD", 1)]


def test_a_set_that_cannot_be_read_at_all_ends_the_run(services: FakeEngineServices, tmp_path: Path) -> None:
    late = "why " * 1100
    rows = [{"id": f"e{n}", "instruction": f"{late}{n}?", "input": "", "output": "So it is."} for n in range(5)]
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    with pytest.raises(StepFailed, match="Not one of 5 samples could be read by the selector"):
        run(services, data, tmp_path / "out", select_only=True, rule="top_k")
    with pytest.raises(PreconditionFailed, match="measured 0 samples"):
        run(services, data, tmp_path / "calibrated", select_only=True)


def test_features_that_need_no_calibration_and_vectors_alone_do_not_meet_in_one_collection(
    services: FakeEngineServices, data: Path, tmp_path: Path
) -> None:
    run(services, data, tmp_path / "features", rule="top_k", select_only=True)
    vectors = run(services, data, tmp_path / "vectors", objective="k_center", select_only=True)
    assert vectors.rows_out == 6


def test_a_selector_of_its_own_has_a_process_of_its_own(data: Path, holdout: Path, tmp_path: Path) -> None:
    model = write_fake_model(tmp_path / "model", name="model", seed=1, skill=0.3)
    selector = write_fake_model(tmp_path / "selector", name="selector", seed=2)
    command = [
        *(sys.executable, "-m", "burnish", "run", "mads", "--data", data, "--holdout", holdout, "--model", model),
        *("--selector", selector, "--random-subsets", "0", "--no-full", "--engine", "fake", "--out", tmp_path / "out"),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with history(tmp_path / "out") as h:
        by_step = {step.name: dict(step.detail) for step in h.steps()}
        base = next(m for m in h.models() if m.role == "base")
    assert by_step["features"]["model"]["uri"] == str(selector)  # type: ignore[index]
    assert base.uri == str(model)
    logs = sorted(path.name for path in (tmp_path / "out").rglob("*.log"))
    assert {"embedding.log", "scoring-training.log"} <= set(logs), "a process each"


# ---- the other recipes, whose sets it holds


def test_middo_holds_the_sets_size_and_reads_only_what_is_new(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out, watcher = tmp_path / "out", Watcher()
    settings = MiddoSettings(data=(str(data),), model="base", seed=7, rounds=2, hold_size=0.9, axes=("sparse",))
    summary = run_recipe(settings, client, out, options=RunOptions(batch_size=10), observer=watcher)
    assert (summary.rows_in, summary.rows_out) == (43, 39)
    assert [s.name for s in watcher.steps][2:11] == [
        *("embed", "project", "decide", "refine", "calibrate", "features", "hold", "assemble", "train")
    ]
    (calibration,) = client.embedding.list_calibrations()
    collection = next(c for c in client.embedding.list_collections() if c.features is not None)
    read = [s.id for r in fakes.requests("EmbedSamples") if r.collection == collection.name for s in r.samples]
    assert len(read) == len(set(read)), "no sample is read twice, in whichever round"
    assert collection.features is not None
    assert collection.features.calibration == calibration.name
    with history(out) as h:
        assert [d.num_rows for d in h.datasets()] == [43, 39, 39]
        for number in (1, 2):
            held = h.held(number)
            kept = [one.row_id for one in held if one.kept]
            assert len(kept) == 39 < len(held)
            assert [row.row_id for row in h.rows(number + 1)] == kept, (
                "in the order of the set that would have followed"
            )
        gone = next(one.row_id for one in h.held(1) if not one.kept and h.row(1, one.row_id) is not None)
        assert story_of(h, gone).left_out.startswith("Left out to hold 39 rows")
        assert any("the set's size was held" in note for note in collect(h).notes)
    dropped = {row["row_id"]: row for row in lines(out / "final/dropped.jsonl")}
    assert dropped[gone]["reasons"][0].startswith("Left out to hold")


def test_rows_that_were_left_out_in_the_round_that_wrote_them_are_told_of(
    client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = MiddoSettings(data=(str(data),), model="base", seed=7, rounds=2, hold_size=30, share_sparse=0.6)
    run_recipe(settings, client, out, options=RunOptions(batch_size=10))
    dropped = {(row["round"], row["row_id"]): row for row in lines(out / "final/dropped.jsonl")}
    with history(out) as h:
        new = 0
        for number in (1, 2):
            there = {row.row_id for row in h.rows(number)}
            made = {(one.row_id, one.strategy): one.after for one in h.rewrites(number)}
            left = {one.row_id: one.reason for one in h.held(number) if not one.kept}
            assert {name for round_number, name in dropped if round_number == number} == left.keys()
            for name in left.keys() - there:
                row = dropped[number, name]
                assert row["reasons"] == [left[name]]
                text = tuple(Message(Role(one["role"]), one["content"]) for one in row["messages"])
                parent = name.rpartition("+")[0]
                assert text in {made.get((parent, strategy)) for strategy in ("diversify", "improve")}
                story = story_of(h, name)
                assert (story.rounds, story.final) == ((), None)
                assert story.left_out.startswith(f"It was written in round {number}, from row {parent}.")
                assert left[name] in "\n".join(told(story))
                new += 1
    assert new > 5, "else nothing is shown"


def test_the_id_of_a_row_that_left_is_not_given_again(client: Client, tmp_path: Path) -> None:
    rows = [{**row, "id": number} for number, row in enumerate(alpaca(12))]
    data, out = write_jsonl(tmp_path / "data.jsonl", rows), tmp_path / "out"
    for seed in range(3):  # in some, the row with the highest id leaves in the first round
        settings = MiddoSettings(data=(str(data),), model="base", seed=seed, rounds=3, hold_size=3, axes=("sparse",))
        run_recipe(settings, client, out / str(seed))
        with history(out / str(seed)) as h:
            all_of_them = {(row.row_id, row.sample_hash) for number in range(1, 5) for row in h.rows(number)}
        assert len({row_id for row_id, _ in all_of_them}) == len(all_of_them)


def test_clear_holds_the_sets_size(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ClearSettings(data=(str(data),), model="base", seed=7, filter_only=True, hold_size=10)
    assert run_recipe(settings, client, out).rows_out == 10
    with history(out) as h:
        kept = [d.row_id for d in h.decisions(1) if d.actions[0] == "keep"]
        final = [row.row_id for row in h.rows(2)]
    assert len(kept) > 10
    assert set(final) <= set(kept)
    assert len(lines(out / "final/dropped.jsonl")) == 33


def test_a_set_that_is_small_enough_is_left_alone(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    settings = ClearSettings(data=(str(data),), model="base", seed=7, filter_only=True, hold_size="100%")
    run_recipe(settings, client, tmp_path / "out")
    assert not fakes.requests("SelectCoverage")
    assert not fakes.requests("EmbedSamples")
