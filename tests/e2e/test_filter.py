"""Whole runs of filtering by a signal: against fake services, which say who was asked for what, and on the fake engine,
whose training service is real but for the training."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish.cli.filter_options import FILTER
from burnish.cli.sweep import setting_paths, varied
from burnish.coordinator.errors import DataError, InputError, Interrupted, StepFailed
from burnish.coordinator.history import RunHistory
from burnish.coordinator.loop import RunOptions, resume, run_recipe
from burnish.coordinator.progress import StepProgress
from burnish.coordinator.recipes.filter.loop import ALONE, COVERING, FOLD, MIXED, RANDOM, RIVAL, TRIED, TRUSTED
from burnish.coordinator.recipes.filter.settings import MOST_FOLDS, FilterSettings
from burnish.coordinator.story import story_of
from burnish.coordinator.sweep import Point, grid, sweep
from burnish.report.collect import collect
from burnish.report.data import FilterRound
from burnish.report.render import render
from burnish.testing import FakeServices
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.filtering import filtered, lines, prompts
from tests.e2e.killing import Work, run_in_child
from tests.e2e.support import ROWS, Watcher, alpaca, digest_of_final, history, write_jsonl


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    # With what str.splitlines takes for the end of a line, and JSON does not.
    rows = [{**row, "instruction": "Another\u2028one?"} for row in alpaca(5)]
    return write_jsonl(tmp_path / "holdout.jsonl", rows)


def test_who_is_asked_for_what(
    fakes: FakeServices, client: Client, data: Path, holdout: Path, trusted: Path, tmp_path: Path
) -> None:
    watcher, out = Watcher(), tmp_path / "out"
    summary = filtered(client, data, out, watcher, holdout=str(holdout), trusted=str(trusted), folds=3, keep=0.5)
    # Of 43 rows two and their two copies ask what trusted rows ask; half of the others are kept.
    assert (summary.rows_in, summary.rows_out) == (43, 20)
    assert [(s.round, s.name) for s in watcher.steps] == [
        *((0, "read"), (1, "split"), (0, "evaluate")),
        *((FOLD + fold, step) for fold in range(3) for step in ("train", "score_cross")),
        *((1, "score_pre"), (1, "decide"), (1, "assemble")),
        *(
            (number, step)
            for number in (2, 1, MIXED, ALONE, RANDOM, RANDOM + 1, RANDOM + 2)
            for step in ("train", "evaluate")
        ),
    ]
    assert {spec.base_model.uri for spec in (one.spec for one in fakes.requests("CreateRun"))} == {"base"}
    assert len({spec.hyperparameters.seed for spec in (one.spec for one in fakes.requests("CreateRun"))}) == 1
    on = {number: out / f"data/round-{number}.jsonl" for number in (1, 2, 3, 4, 5, MIXED, ALONE, RANDOM)}
    # Fold models learn from two folds of three, and from the six trusted rows; the last model does not.
    assert [len(lines(path)) for path in on.values()] == [39, 20, 32, 32, 32, 45, 6, 20]
    steps = {Path(one.spec.data_uri).stem: one.spec.hyperparameters.max_steps for one in fakes.requests("CreateRun")}
    assert steps[f"round-{ALONE}"] > 0 == steps["round-2"], "as many steps as the model of what was kept took"
    assert sum(len(prompts(on[1]) - prompts(on[number])) for number in (3, 4, 5)) == len(prompts(on[1]))
    asked = prompts(out / "data/trusted.jsonl")
    assert not asked & prompts(on[1])
    assert all(asked <= prompts(on[number]) for number in (3, 4, 5))


def test_trusted_rows_that_measure_nothing_are_set_apart_and_compared_with(
    client: Client, data: Path, holdout: Path, trusted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    filtered(client, data, out, holdout=str(holdout), trusted=str(trusted), signal="loss", random_subsets=0)
    with history(out) as h:
        assert [model.round for model in h.models()] == [0, 1, 2, MIXED, ALONE]
        assert Counter(one.actions for one in h.decisions(1))[("trusted",)] == 4
    assert len(lines(out / f"data/round-{ALONE}.jsonl")) == 6


def test_no_sample_is_scored_by_a_model_that_saw_it_or_its_prompt(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    filtered(client, data, out, trusted=str(trusted), folds=2)
    by_model: dict[str, set[str]] = {}
    for request in fakes.requests("ScoreSamples"):
        told = by_model.setdefault(Path(request.model.uri).name, set())
        told |= {sample.messages[0].content for sample in request.samples}
    whole = prompts(out / "data/round-3.jsonl") | prompts(out / "data/round-4.jsonl")
    asked = prompts(out / "data/trusted.jsonl")
    assert by_model["base"] == whole - asked
    for name in ("round-3", "round-4"):
        seen = prompts(out / f"data/{name}.jsonl")
        assert by_model[name] == whole - seen


def test_every_row_has_one_action_its_value_and_what_it_is_made_of(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filtered(client, data, out, signal="cross_gain", keep=0.7)
    with history(out) as h:
        decided = h.decisions(1)
        (line,) = h.thresholds(1)
        story = story_of(h, decided[0].row_id)
        assert [model.round for model in h.models()] == [0, 2, 3, 4]
    assert Counter(one.actions for one in decided) == {("keep",): 31, ("drop",): 12}
    assert (line.signal, line.axis, line.num_values, line.num_excluded) == ("cross_gain", "low_value", 43, 0)
    for one in decided:
        told = one.signals
        assert told["mean_nll"] is not None
        assert told["cross_mean_nll"] is not None
        assert told["cross_gain"] == pytest.approx(told["mean_nll"] - told["cross_mean_nll"])
        assert {"num_tokens", "sum_nll", "max_nll", "mean_probability", "cross_max_nll"} <= told.keys()
    kept = [one.signals["cross_gain"] or 0.0 for one in decided if one.actions == ("keep",)]
    gone = [one.signals["cross_gain"] or 0.0 for one in decided if one.actions == ("drop",)]
    assert min(kept) >= max(gone)
    assert {row["id"] for row in lines(out / "final/data.jsonl")} == {
        one.row_id for one in decided if one.actions == ("keep",)
    }
    assert len(lines(out / "final/dropped.jsonl")) == 12
    assert story.rounds[0].decision is not None
    assert "which did not see it" in " ".join(story.rounds[0].decision.reasons)


def test_a_score_without_its_unconditional_part_is_asked_for_again(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    def run(name: str, signal: str) -> int:
        before = len(fakes.requests("ScoreSamples"))
        settings = FilterSettings(data=str(data), model="base", signal=signal)
        run_recipe(settings, client, tmp_path / name, ledger=tmp_path / "ledger.duckdb")
        return len(fakes.requests("ScoreSamples")) - before

    assert run("loss", "loss") == 2, "32 and 8 different samples"
    assert run("weakest", "weakest") == 0
    assert run("ifd", "ifd") == 2
    assert all(request.score_unconditional for request in fakes.requests("ScoreSamples")[-2:])
    assert run("pmi", "pmi") == 0
    assert run("total", "total_loss") == 0
    with history(tmp_path / "ifd") as h:
        assert all(one.signals["ifd"] == pytest.approx(0.8) for one in h.decisions(1))


def test_signals_share_what_they_have_in_common(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    class Publisher(Watcher):
        """Has the files of a model there, as the training service would."""

        def step_finished(self, step: StepProgress) -> None:
            if step.name == "train":
                for request in fakes.requests("CreateRun"):
                    Path(request.spec.output_uri).mkdir(parents=True, exist_ok=True)

    base: dict[str, Any] = {"data": str(data), "model": "base", "seed": 7}
    points = [
        Point(chosen, FilterSettings.parse(varied(base, setting_paths(FILTER), chosen)))
        for chosen in grid({"signal": ["cross_loss", "cross_gain"]})
    ]
    results = sweep(points, client, tmp_path / "sweep", observer=Publisher())
    assert len(fakes.requests("CreateRun")) == 4, "two fold models for both, and the last one of each"
    scored = Counter((r.model.digest, s.id) for r in fakes.requests("ScoreSamples") for s in r.samples)
    assert set(scored.values()) == {1}
    told = write_jsonl(tmp_path / "truth.jsonl", [{"id": f"s{number}", "flaw": "wrong"} for number in range(9)])
    for result in results:
        with history(result.out) as h:
            found = collect(h, truth=str(told))
        (only,) = found.rounds
        assert isinstance(only, FilterRound)
        (against,) = found.truth
        assert next(one for one in against.signals if one.signal == only.thresholds[0].signal).auroc is not None
        assert "compared with nothing" in render(found)


@pytest.mark.parametrize("unscored", ["keep", "drop"])
def test_rows_without_a_value_are_counted_and_stay_or_go_as_asked(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path, unscored: str
) -> None:
    def too_long(reply: Any) -> None:
        for score in reply.scores:
            if score.num_tokens in (4, 8):
                name = score.sample_id
                score.Clear()
                score.sample_id, score.status.code, score.status.reason = name, 3, "TOO_LONG"
                score.status.message = "too long"

    fakes.change_reply("ScoreSamples", too_long)
    watcher, out = Watcher(), tmp_path / "out"
    summary = filtered(client, data, out, watcher, signal="loss", keep=0.6, unscored=unscored)
    with history(out) as h:
        (line,) = h.thresholds(1)
        decided = h.decisions(1)
        failures = {(one.step, one.reason): one.count for one in h.failures(1)}
    assert failures.keys() == {("score_pre", "TOO_LONG")}
    assert line.num_excluded > 3
    without = [one for one in decided if "loss" not in one.signals]
    assert len(without) == line.num_excluded
    assert {one.actions for one in without} == {("unscored",) if unscored == "keep" else ("drop",)}
    assert without[0].reasons == (f"No loss could be had (TOO_LONG); {unscored} it.",)
    assert summary.rows_out == 43 - len(without) - int(0.4 * line.num_values) + len(without) * (unscored == "keep")
    assert f"{line.num_excluded} of 43 rows have no loss and cannot be ranked; {unscored} them." in watcher.notes

    # Where no share is better, the model that is made is the one that was judged.
    again = tmp_path / "again"
    filtered(
        client, data, again, watcher, trusted=str(trusted), signal="loss", shares="0.5", errors=99.0, unscored=unscored
    )
    with history(again) as h:
        (step,) = (one for one in h.steps() if one.name == "choose")
        models = {model.round: model.digest for model in h.models()}
        assert step.detail["share"] == 1.0
        assert h.datasets()[-1].num_rows == len(lines(again / f"data/round-{TRIED}.jsonl"))
    assert models[2] == models[TRIED]
    every = "all rows that have a value" if unscored == "drop" else "all rows"
    assert any(note.endswith(f"on the trusted rows: {every} are kept.") for note in watcher.notes)


def test_what_counts_by_rank_and_what_is_held_go_together(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = filtered(client, data, out, signal="loss", keep=0.8, hold_size="50%", weighted=True)
    assert summary.rows_out == 22
    trained = lines(out / "data/round-2.jsonl")
    weights = [line["weight"] for line in trained]
    assert math.fsum(weights) == pytest.approx(22)
    assert max(weights) / min(weights) == pytest.approx(4, rel=0.1), "rows that tie share their ranks"
    with history(out) as h:
        value = {one.row_id: one.signals["loss"] or 0.0 for one in h.decisions(1)}
        assert len(h.held(1)) == 35
        assert h.places(1)
    by_value = sorted(trained, key=lambda line: value[line["id"]])
    assert [line["weight"] for line in by_value] == sorted(weights)
    assert "weight" not in lines(tmp_path / "out/final/data.jsonl")[0]


def test_fold_models_take_as_many_passes_where_steps_are_limited(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path
) -> None:
    filtered(client, data, tmp_path / "out", trusted=str(trusted), folds=3, training={"max_steps": 20})
    specs = [request.spec for request in fakes.requests("CreateRun")]
    # Of 39 rows each fold model has 26, and the six trusted ones: 32/39 of 20 steps.
    assert [spec.hyperparameters.max_steps for spec in specs] == [17, 17, 17, 20]


def test_later_passes_learn_from_what_the_one_before_would_keep(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filtered(client, data, out, signal="cross_loss", passes=2, keep=0.5)
    first, second = (
        [lines(out / f"data/round-{FOLD + number * MOST_FOLDS + fold}.jsonl") for fold in range(2)] for number in (0, 1)
    )
    for all_of_them, kept in zip(first, second, strict=True):
        assert len(kept) < len(all_of_them)
        assert {row["id"] for row in kept} <= {row["id"] for row in all_of_them}
    with history(out) as h:
        assert len(h.decisions(1)) == 43
        assert sum(len(kept) for kept in second) == 22, "what half of 43 rows is, each in the other fold's model"


def test_the_first_pass_may_ask_a_model_of_the_trusted_rows_alone(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = {"trusted": str(trusted), "start": "trusted", "training": {"max_steps": 20, "num_epochs": 9}}
    filtered(client, data, out, keep=0.5, **asked)
    alone, last = (request.spec.hyperparameters for request in fakes.requests("CreateRun"))
    assert (alone.num_epochs, alone.HasField("max_steps")) == (3.0, False)
    assert (last.num_epochs, last.max_steps) == (9.0, 20)
    assert prompts(out / f"data/round-{TRUSTED}.jsonl") == prompts(out / "data/trusted.jsonl")
    by_model = {Path(one.model.uri).name for one in fakes.requests("ScoreSamples")}
    assert by_model == {"base", f"round-{TRUSTED}"}
    with history(out) as h:
        kept = [one for one in h.decisions(1) if one.actions == ("keep",)]
        story = story_of(h, kept[0].row_id)
        page = render(collect(h))
    assert story.rounds[0].decision is not None
    assert "under that of the trusted rows, which did not see it" in " ".join(story.rounds[0].decision.reasons)
    assert "the trusted rows alone" in page

    again = tmp_path / "again"
    filtered(client, data, again, keep=0.5, passes=2, **asked)
    for fold in range(2):
        learnt = {row["id"] for row in lines(again / f"data/round-{FOLD + MOST_FOLDS + fold}.jsonl")}
        assert {name for name in learnt if name.startswith("s")} <= {one.row_id for one in kept}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shares": "0.8,1"}, "expected at most 8 different ones from 0.001 to below 1"),
        ({"shares": "0.8"}, "trusted rows say which of the shares is taken, and there are none"),
        ({"shares": "0.8", "trusted": "t", "hold_size": 10}, "shares and hold_size both say how many rows go on"),
        ({"signal": "loss", "passes": 2}, "passes are of fold models, and signal loss needs none"),
        ({"signal": "loss", "trusted": "t"}, "signal loss makes no use of trusted rows"),
        ({"start": "trusted"}, "start trusted measures rows by a model of the trusted ones; give some"),
        ({"start": "trusted", "trusted": "t", "shares": "0.5", "signal": "loss"}, "and a signal of models"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        FilterSettings.parse({"data": "d", "model": "m", **wrong})


def test_fold_models_are_kept_only_where_all_are(services: FakeEngineServices, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Client(services.address) as client:
        filtered(client, data, out, model=str(services.model), keep_models="last", signal="cross_loss")
    assert [path.name for path in sorted((out / "models").iterdir())] == ["round-2"]


def test_too_few_prompts_for_the_folds_are_refused(client: Client, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", ROWS[:3])
    with pytest.raises(DataError, match="3 different prompts cannot be divided into 4 folds"):
        filtered(client, data, tmp_path / "out", folds=4)


def test_trusted_rows_can_be_mended_until_the_data_are_read_and_not_after(
    client: Client, data: Path, holdout: Path, trusted: Path, tmp_path: Path
) -> None:
    class Stop(Watcher):
        def step_finished(self, step: StepProgress) -> None:
            if step.name == "read":
                raise Interrupted("enough")

    out, good = tmp_path / "out", trusted.read_bytes()
    asked: dict[str, Any] = {"trusted": str(trusted), "holdout": str(holdout), "signal": "loss"}
    trusted.write_bytes(good + holdout.read_bytes())
    with pytest.raises(DataError, match="5 samples are in the trusted rows and in the held-out data, the first: trust"):
        filtered(client, data, out, **asked)
    trusted.write_bytes(good)
    with pytest.raises(Interrupted):
        filtered(client, data, out, Stop(), **asked)
    trusted.write_bytes(good + good)
    with pytest.raises(DataError, match=r"The files of the trusted rows \(.*\) have changed since this run was begun"):
        resume(out, client)
    trusted.write_bytes(good)
    assert resume(out, client).rows_out > 0


@pytest.mark.parametrize("more", [{}, {"shares": "0.5"}, {"signal": "cross_weakest", "passes": 2}])
def test_a_run_that_would_drop_all_rows_says_what_to_change(
    fakes: FakeServices, client: Client, data: Path, trusted: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    def too_long(reply: Any) -> None:
        for score in reply.scores:
            name = score.sample_id
            score.Clear()
            score.sample_id, score.status.code, score.status.reason = name, 3, "TOO_LONG"

    fakes.change_reply("ScoreSamples", too_long)
    asked = {"signal": "loss", "unscored": "drop", **({"trusted": str(trusted)} if "shares" in more else {}), **more}
    with pytest.raises(
        StepFailed, match=r"Not one of \d+ rows has a value by signal .* Begin a new run with --unscored k"
    ):
        filtered(client, data, tmp_path / "out", **asked)
    assert {len(lines(path)) > 0 for path in (tmp_path / "out/data").glob("round-*.jsonl")} <= {True}
    assert not (tmp_path / "out/final").exists()


def test_what_is_judged_by_is_not_trusted(
    client: Client, data: Path, holdout: Path, trusted: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="5 samples are in the trusted rows and in the held-out data"):
        filtered(client, data, tmp_path / "out", holdout=str(holdout), trusted=str(holdout))
    with pytest.raises(DataError, match="every prompt of the data is in the trusted rows"):
        filtered(client, data, tmp_path / "all", trusted=str(data))
    out = tmp_path / "changed"
    filtered(client, data, out, trusted=str(trusted))
    (out / "data/trusted.jsonl").write_text("{}\n")
    with pytest.raises(StepFailed, match=r"trusted\.jsonl is gone or changed"):
        filtered(client, data, out, trusted=str(trusted))


def kill_after(
    services: FakeEngineServices,
    recipe: str,
    settings: dict[str, Any],
    steps: Sequence[tuple[str, int]],
    tmp_path: Path,
) -> None:
    """Runs it in `calm`, and in `rough` killed after each of the steps; both must make the same."""

    def run(out: Path, step: str = "", number: int = 0) -> int:
        options = RunOptions(keep_models="last")
        return run_in_child(Work(services.address, recipe, settings, out, options, (step, number)))

    assert run(tmp_path / "calm") == 0
    for step, number in steps:
        assert run(tmp_path / "rough", step, number) == -9, (step, number)
    assert run(tmp_path / "rough") == 0
    assert digest_of_final(tmp_path / "rough") == digest_of_final(tmp_path / "calm")
    digests = []
    for name in ("rough", "calm"):
        with history(tmp_path / name) as h:
            digests.append([(model.round, model.digest, model.eval_loss) for model in h.models()])
    assert digests[0] == digests[1]


def test_a_killed_choice_ends_as_an_undisturbed_one(
    services: FakeEngineServices, data: Path, trusted: Path, tmp_path: Path
) -> None:
    asked = {
        "data": str(data),
        "trusted": str(trusted),
        "model": str(services.model),
        "signal": "cross_weakest",
        "rival": "none",
        "start": "trusted",
        "shares": [0.8, 0.5],
        "passes": 2,
        "errors": 0,
    }
    steps = (
        *(("train", TRUSTED), ("score_cross", FOLD + MOST_FOLDS), ("train", TRIED), ("score_trusted", TRIED + 1)),
        *(("choose", 1), ("decide", 1), ("train", 2)),
    )
    kill_after(services, "auto", asked, steps, tmp_path)
    with history(tmp_path / "rough") as h:
        found = collect(h)
        models = {model.round: model for model in h.models()}
    (only,) = found.rounds
    assert isinstance(only, FilterRound)
    (taken,) = (TRIED + place for place, one in enumerate(only.tried) if one.taken)
    assert models[2].digest == models[taken].digest, "it is not trained twice"
    assert [path.name for path in (tmp_path / "rough/models").iterdir()] == [f"round-{taken}"]
    page = render(found)
    assert page.count("pass 2") == 2
    assert page.count("the trusted rows alone") == 3, (
        "in the table, and over the curve of its training, which is named twice"
    )
    assert "the best 80%, to try it" in page
    assert "Which share was taken" in page


def test_a_killed_choice_between_two_signals_ends_as_an_undisturbed_one(
    services: FakeEngineServices, data: Path, tmp_path: Path
) -> None:
    trusted = write_jsonl(tmp_path / "many.jsonl", [{**row, "instruction": "Else?"} for row in alpaca(24)])
    asked = {
        "data": str(data),
        "trusted": str(trusted),
        "model": str(services.model),
        "shares": [0.8, 0.5],
        "weighted": True,
        "errors": 0,
        "cover": True,
    }
    middle = RIVAL + 2
    steps = (
        *(("score_trusted", 1), ("train", middle), ("score_trusted", middle)),
        *((step, COVERING) for step in ("calibrate", "features", "hold", "train", "score_trusted")),
        *(("choose", 1), ("decide", 1)),
    )
    kill_after(services, "auto", asked, steps, tmp_path)
    with history(tmp_path / "rough") as h:
        (only,) = collect(h).rounds
        models = {model.round: model for model in h.models()}
    assert isinstance(only, FilterRound)
    assert {one.signal for one in only.tried if one.share == 0.5} == {"weakest", "calibrated"}
    (left,) = (path.name for path in (tmp_path / "rough/models").iterdir())
    assert models[2].uri.endswith(left)
    assert left != "round-2", "what is taken is not trained again"


def test_a_killed_run_ends_as_an_undisturbed_one(
    services: FakeEngineServices, data: Path, holdout: Path, trusted: Path, tmp_path: Path
) -> None:
    files = {"data": str(data), "holdout": str(holdout), "trusted": str(trusted), "model": str(services.model)}
    asked = {**files, "signal": "cross_weakest", "seed": 3, "random_subsets": 1, "hold_size": 20, "weighted": True}
    steps = (
        ("split", 1),
        ("train", 3),
        ("score_cross", 4),
        ("decide", 1),
        ("hold", 1),
        ("train", 2),
        ("train", MIXED),
        ("evaluate", MIXED),
        ("train", ALONE),
    )
    kill_after(services, "filter", asked, steps, tmp_path)
    told = write_jsonl(
        tmp_path / "truth.jsonl",
        [{"id": f"s{number}", "flaw": "swapped" if number % 2 else "cut"} for number in range(4, 12)],
    )
    with history(tmp_path / "rough") as h:
        found = collect(h, truth=str(told))
    (only,) = found.rounds
    assert isinstance(only, FilterRound)
    assert [(arm.name, len(arm.losses)) for arm in found.short.arms] == [
        ("nothing (the base model)", 1),
        ("what was kept", 1),
        ("all rows", 1),
        ("all rows and the trusted rows", 1),
        ("the trusted rows alone", 1),
        ("random subsets of the same size", 1),
    ]
    (against,) = found.truth
    higher = {one.signal: one.higher_is_right for one in against.signals}
    assert higher["cross_weakest"]
    assert not higher["cross_max_nll"]
    assert "ifd_ratio" not in higher, "it was not measured"
    assert all(one.by_flaw.keys() == {"swapped", "cut"} for one in against.signals)
    assert only.actions == {"keep": 28, "drop": 11, "trusted": 4}
    assert only.left_out == 8
    assert len(only.dropped) == 11
    page = render(found)
    for words in (
        "What was kept is not better than chance",
        "least likely token under models that did not see the row",
        "trusted row",
    ):
        assert words in page
    assert page.count("trained on all folds but") == 2
    with history(tmp_path / "rough") as h:
        assert [model.round for model in h.models()] == [0, 1, 2, 3, 4, RANDOM, MIXED, ALONE]


def test_held_out_rows_that_not_every_model_could_score_are_told(
    client: Client, data: Path, holdout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filtered(client, data, tmp_path / "out", signal="loss", holdout=str(holdout))
    whole = RunHistory.held_out_scores

    def lacking(history: RunHistory, number: int, hashes: Sequence[str]) -> dict[str, tuple[float, int]]:
        found = dict(whole(history, number, hashes))
        if number == 2:
            found.pop(next(iter(found)))
        return found

    said = "held-out samples could not be scored under every model"
    with history(tmp_path / "out") as h:
        assert not [note for note in collect(h).notes if said in note]
        monkeypatch.setattr(RunHistory, "held_out_scores", lacking)
        (note,) = [note for note in collect(h).notes if said in note]
    assert note.startswith("1 ")
