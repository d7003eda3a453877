"""Whole runs of CLEAR against fake services: what is asked for, what becomes of rows, and the extremes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish.api.scoring.v1 import scoring_pb2
from burnish.coordinator.errors import InputError, StepFailed
from burnish.coordinator.export import export
from burnish.coordinator.loop import RunOptions, RunSummary, run_recipe
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.testing import FakeServices, _scoring
from burnish.testing._state import failed
from tests.e2e.support import Watcher, alpaca, history, write_jsonl

ROWS = alpaca(40, duplicates=3)
WORK = ("EstimateConfidence", "GenerateResponses", "ComparePairs", "CreateRun", "ScoreSamples")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", ROWS)


def curate(
    client: Client, data: Path, out: Path, watcher: Watcher | None = None, *, ledger: Path | None = None, **more: Any
) -> RunSummary:
    settings = ClearSettings(**({"data": str(data), "model": "base", "seed": 7, "eta": 0.6} | more))
    return run_recipe(settings, client, out, options=RunOptions(batch_size=10), observer=watcher, ledger=ledger)


def actions(out: Path, round_number: int = 1) -> Counter[str]:
    with history(out) as h:
        return Counter(decision.actions[0] for decision in h.decisions(round_number))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def estimated(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Has `change` edit every estimate before it leaves the fake."""
    made = _scoring._estimate

    def changed(*arguments: Any) -> scoring_pb2.ConfidenceEstimate:
        estimate = made(*arguments)
        change(estimate)
        return estimate

    monkeypatch.setattr(_scoring, "_estimate", changed)


def test_rows_are_kept_corrected_or_dropped_and_nothing_else_changes(
    client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = curate(client, data, out)
    counts = actions(out)
    assert set(counts) == {"keep", "correct", "drop"}
    assert counts["correct"] + counts["drop"] == 21, "half of 43, the median stays"
    assert (summary.rows_in, summary.rows_out) == (43, 43 - counts["drop"])
    final = {row["id"]: row for row in lines(out / "final/data.jsonl")}
    before = {row["id"]: row for row in ROWS}
    with history(out) as h:
        decided = {decision.row_id: decision.actions[0] for decision in h.decisions(1)}
    assert list(final) == [row["id"] for row in ROWS if decided[row["id"]] != "drop"], "order is kept"
    for row_id, row in final.items():
        changed = {name for name in row if row[name] != before[row_id][name]}
        assert changed == ({"output"} if decided[row_id] == "correct" else set()), "instruction and input stay apart"
    told = {row["row_id"]: row for row in lines(out / "final/provenance.jsonl")}
    assert {row_id for row_id, row in told.items() if row["actions"]} == {
        row_id for row_id, what in decided.items() if what == "correct"
    }
    gone = lines(out / "final/dropped.jsonl")
    assert [row["row_id"] for row in gone] == [row["id"] for row in ROWS if decided[row["id"]] == "drop"]
    assert all(row["reasons"] and row["messages"] and "confidence" in row["signals"] for row in gone)
    with history(out) as h:
        alpaca_file = json.loads(export(h, "alpaca", tmp_path / "alpaca")[0].read_text())
    assert [row["input"] for row in alpaca_file] == [before[row["id"]]["input"] for row in alpaca_file]


def test_who_is_asked_for_what(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    summary = curate(client, data, tmp_path / "out", watcher)
    models = {model.round: model for model in summary.models if model.role == "trained"}
    with history(tmp_path / "out") as h:
        base = next(model.digest for model in h.models() if model.role == "base")
    assert {r.model.digest for r in fakes.requests("EstimateConfidence")} == {base}
    assert {r.model.digest for r in fakes.requests("GenerateResponses")} == {models[1].digest}, "the tuned model"
    assert {r.model.digest for r in fakes.requests("ComparePairs")} == {base}
    assert [r.spec.base_model.digest for r in fakes.requests("CreateRun")] == [base, base], "never from the tuned one"
    asked = [sample.id for r in fakes.requests("EstimateConfidence") for sample in r.samples]
    assert len(asked) == len(set(asked)) == 40, "duplicates share what is measured"
    assert not fakes.requests("EmbedSamples")
    trained_on = lines(tmp_path / "out/data/round-1.jsonl")
    with history(tmp_path / "out") as h:
        passed = [d.row_id for d in h.decisions(1) if not d.axes]
    assert [row["id"] for row in trained_on] == passed
    assert [s.name for s in watcher.steps] == [
        *("read", "confidence", "filter", "train", "propose", "compare", "decide", "assemble", "train"),
    ]


def test_responses_to_the_same_prompt_are_asked_about_together(
    fakes: FakeServices, client: Client, tmp_path: Path
) -> None:
    rows = alpaca(12)
    others = [{**row, "id": f"other{i}", "output": f"another {i}"} for i, row in enumerate(rows)]
    curate(client, write_jsonl(tmp_path / "data.jsonl", rows + others), tmp_path / "out", filter_only=True)
    asked = [[s.messages[-2].content for s in r.samples] for r in fakes.requests("EstimateConfidence")]
    assert len(asked) > 1
    for prompts in asked:
        assert all(count == 2 for count in Counter(prompts).values()), "a request shares the answers to a prompt"


def test_repeating_a_finished_run_asks_for_nothing(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    first = curate(client, data, tmp_path / "out")
    before = [len(fakes.requests(name)) for name in WORK]
    again = curate(client, data, tmp_path / "out")
    assert again == first
    assert [len(fakes.requests(name)) for name in WORK] == before


def test_filter_only_stops_before_any_training(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    summary = curate(client, data, tmp_path / "out", filter_only=True, holdout=str(data), drop_fraction=0.25)
    assert summary.rows_out == 43 - 10
    assert actions(tmp_path / "out") == {"keep": 33, "drop": 10}
    assert [name for name in WORK if fakes.requests(name)] == ["EstimateConfidence"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_rows(client: Client, tmp_path: Path, count: int) -> None:
    data = write_jsonl(tmp_path / "few.jsonl", alpaca(count))
    summary = curate(client, data, tmp_path / "out")
    counts = actions(tmp_path / "out")
    assert counts.total() == count
    assert counts["keep"] >= count - count // 2
    assert summary.rows_out >= 1


def test_constant_scores_keep_everything(
    client: Client, data: Path, tmp_path: Path, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flatten(estimate: scoring_pb2.ConfidenceEstimate) -> None:
        for choice in estimate.reflections:
            choice.probabilities[:] = [0.5, 0.3, 0.2]
        for answer in estimate.answers:
            answer.similarity = 0.5

    estimated(monkeypatch, flatten)
    watcher = Watcher()
    summary = curate(client, data, tmp_path / "out", watcher)
    assert actions(tmp_path / "out") == {"keep": 43}
    assert summary.rows_out == 43
    assert not fakes.requests("GenerateResponses"), "nothing failed, so nothing is proposed"
    assert len(fakes.requests("CreateRun")) == 1
    assert any("43 rows tie at the line" in note for note in watcher.notes)
    assert any("deviation of 0.0000" in note for note in watcher.notes)


def test_without_any_confidence_everything_stays_and_is_said(
    client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated(monkeypatch, lambda estimate: estimate.status.CopyFrom(failed("TOO_LONG")))
    watcher = Watcher()
    summary = curate(client, data, tmp_path / "out", watcher)
    assert actions(tmp_path / "out") == {"unscored": 43}
    assert summary.rows_out == 43
    assert any("no confidence could be had of any of 43 rows" in note for note in watcher.notes)
    with history(tmp_path / "out") as h:
        assert [(f.step, f.reason, f.count) for f in h.failures(1)] == [("confidence", "TOO_LONG", 40)]


def half_too_long(estimate: scoring_pb2.ConfidenceEstimate) -> None:
    if estimate.sample_id[0] in "01234567":
        estimate.status.CopyFrom(failed("TOO_LONG"))


def test_rows_without_a_confidence_may_be_dropped(
    client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated(monkeypatch, half_too_long)
    curate(client, data, tmp_path / "kept")
    curate(client, data, tmp_path / "dropped", unscored="drop")
    kept, dropped = actions(tmp_path / "kept"), actions(tmp_path / "dropped")
    assert kept["unscored"] > 5
    assert dropped["unscored"] == 0
    assert dropped["drop"] >= kept["unscored"]


def test_the_model_that_corrects_learns_from_rows_that_passed_alone(
    client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated(monkeypatch, half_too_long)
    out = tmp_path / "out"
    curate(client, data, out)
    with history(out) as h:
        above = {d.row_id for d in h.decisions(1) if d.signals and not d.axes}
    assert {row["id"] for row in lines(out / "data/round-1.jsonl")} == above
    assert actions(out)["unscored"] > 5
    with pytest.raises(StepFailed, match=r"at least 2.* and stay, but the model that corrects is not trained on them"):
        curate(client, data, tmp_path / "none", threshold=2.0)
    curate(client, data, tmp_path / "base", threshold=2.0, proposer="base")  # for which none is trained


def test_verdicts_that_say_nothing_are_warned_of(
    client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_letter(estimate: scoring_pb2.ConfidenceEstimate) -> None:
        for turn, choice in enumerate(estimate.reflections):
            choice.probabilities[:] = [0.9 if verdict == turn % 3 else 0.05 for verdict in range(3)]

    estimated(monkeypatch, by_letter)
    watcher = Watcher()
    curate(client, data, tmp_path / "out", watcher, filter_only=True, tier="fast")
    (note,) = [note for note in watcher.notes if "self-reflection says little" in note]
    assert "100% of the verdicts change with the order" in note
    assert "--tier standard, and --beta 1" in note


def test_a_threshold_that_nothing_reaches_is_refused(client: Client, data: Path, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="Not one of 43 rows has a confidence of at least 2"):
        curate(client, data, tmp_path / "out", threshold=2.0)


def test_a_threshold_that_nothing_reaches_is_refused_where_the_rest_is_dropped(
    client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated(monkeypatch, half_too_long)
    asked: dict[str, Any] = {"threshold": 2.0, "unscored": "drop", "filter_only": True}
    for _ in range(2):  # what was written down of the filter does not let it go on
        with pytest.raises(StepFailed, match=r"at least 2.* more have none, and are dropped .* --unscored keep"):
            curate(client, data, tmp_path / "out", **asked)
    assert not (tmp_path / "out/final").exists()
    kept = curate(client, data, tmp_path / "kept", **{**asked, "unscored": "keep"})
    assert 0 < kept.rows_out < 43


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ({"signal": "consistency"}, {"EstimateConfidence"}),
        ({"signal": "reflection"}, {"EstimateConfidence"}),
        ({"signal": "likelihood"}, {"ScoreSamples"}),
        ({"signal": "weakest"}, {"ScoreSamples"}),
        ({"signal": "rating"}, {"JudgeSamples"}),
    ],
)
def test_each_signal_asks_for_what_it_needs(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, more: dict[str, Any], asked: set[str]
) -> None:
    curate(client, data, tmp_path / "out", filter_only=True, **more)
    names = ("EstimateConfidence", "ScoreSamples", "JudgeSamples")
    assert {name for name in names if fakes.requests(name)} == asked
    with history(tmp_path / "out") as h:
        (line,) = h.thresholds(1)
        assert line.signal == more["signal"]
        assert all(more["signal"] in decision.signals for decision in h.decisions(1))
    tiers = {request.tier for request in fakes.requests("EstimateConfidence")}
    assert tiers <= {1 if more["signal"] == "reflection" else 2}


def test_what_failed_otherwise_in_the_same_ledger_is_not_this_run_s(
    client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        estimated(patched, lambda estimate: estimate.status.CopyFrom(failed("TOO_LONG")))
        curate(client, data, tmp_path / "first", filter_only=True, tier="fast", ledger=tmp_path / "ledger.duckdb")
    curate(client, data, tmp_path / "second", filter_only=True, tier="standard", ledger=tmp_path / "ledger.duckdb")
    with history(tmp_path / "first") as first, history(tmp_path / "second") as second:
        assert [f.step for f in first.failures(1)] == ["confidence"]
        assert second.failures(1) == []


def test_candidates_from_the_base_model_need_no_tuned_one(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    curate(client, data, tmp_path / "out", proposer="base")
    assert len(fakes.requests("CreateRun")) == 1
    assert {r.model.uri for r in fakes.requests("GenerateResponses")} == {"base"}


def test_candidates_for_all_rows(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    curate(client, data, tmp_path / "out", scope="all", candidates=3, propose={"temperature": 1.0, **SAMPLED})
    asked = [prompt.id for r in fakes.requests("GenerateResponses") for prompt in r.prompts]
    assert len(asked) == len(set(asked)) == 40
    assert {r.num_responses for r in fakes.requests("GenerateResponses")} == {3}
    with history(tmp_path / "out") as h:
        corrected = [d for d in h.decisions(1) if d.actions == ("correct",)]
        assert any(not d.axes for d in corrected), "rows that passed are corrected too"
        assert all(len(d.reasons) == 4 for d in h.decisions(1))


def test_the_random_control_fails_as_many_rows(client: Client, data: Path, tmp_path: Path) -> None:
    for name, more in (("real", {}), ("control", {"control": "random"}), ("again", {"control": "random"})):
        curate(client, data, tmp_path / name, filter_only=True, **more)
    real, control, again = (
        {row["id"] for row in lines(tmp_path / name / "final/data.jsonl")} for name in ("real", "control", "again")
    )
    assert len(real) == len(control)
    assert real != control
    assert control == again


def test_a_second_round_holds_corrections_against_the_same_line(client: Client, data: Path, tmp_path: Path) -> None:
    curate(client, data, tmp_path / "out", rounds=2)
    with history(tmp_path / "out") as h:
        (first,), (second,) = h.thresholds(1), h.thresholds(2)
        assert second.tau == first.tau
        rows = {row.row_id: row for row in h.rows(2)}
        for decision in h.decisions(2):
            if rows[decision.row_id].origin == "source":
                assert decision.actions == ("keep",)


def test_a_second_rounds_control_draws_among_what_is_new(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate(client, data, out, rounds=2, control="random")
    with history(out) as h:
        (line,) = h.thresholds(1)
        before = {row.row_id: row.sample_hash for row in h.rows(1)}
        failed = {d.row_id for d in h.decisions(1) if d.axes}
        again = h.decisions(2)
        rows = {row.row_id: row.sample_hash for row in h.rows(2)}
    new = {name for name in rows if rows[name] != before[name]}
    assert new
    low = [d for d in again if d.row_id in new and (d.signals["confidence"] or 0) < (line.tau or 0)]
    assert len(low) == sum(bool(d.axes) for d in again if d.row_id in new)
    assert all(bool(d.axes) == (d.row_id in failed) for d in again if d.row_id not in new)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"threshold": 0.5, "drop_fraction": 0.5}, "both say where the line is drawn"),
        ({"signal": "consistency", "tier": "fast"}, "consistency comes from sampled answers"),
        ({"candidates": 2}, "at temperature 0 all candidates are the same"),
        ({"threshold": 0.5, "ties": "rank"}, "leave ties out"),
        ({"drop_fraction": 1.0}, "drop_fraction"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        ClearSettings.parse({"data": "d.json", "model": "m", **more})


SAMPLED = {"top_p": 1.0, "top_k": 0, "max_tokens": 64}
