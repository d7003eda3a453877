"""Whole runs of bilevel selection with online self-refinement: against fake services, which say who was asked for what,
on the fake engine with training and rewriting in processes of their own, and with a real model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish.coordinator.errors import InputError, Interrupted
from burnish.coordinator.loop import RunOptions, RunSummary, run_recipe
from burnish.coordinator.recipes.bmo.settings import BmoSettings
from burnish.coordinator.story import story_of
from burnish.local import LocalServices
from burnish.report.collect import collect
from burnish.report.data import BmoRound
from burnish.report.render import render
from burnish.testing import FakeServices
from burnish_services.engine.fake import write_fake_model
from tests.e2e.support import Watcher, alpaca, history, write_jsonl
from tests.tiny_model import write_tiny_model

ROWS = alpaca(40, duplicates=3)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Data, held-out data and a validation set that share nothing."""
    return {
        "data": str(write_jsonl(tmp_path / "data.jsonl", ROWS)),
        "holdout": str(write_jsonl(tmp_path / "holdout.jsonl", [{**r, "instruction": "Another?"} for r in alpaca(5)])),
        "validation": str(write_jsonl(tmp_path / "trusted.jsonl", [{**r, "instruction": "Else?"} for r in alpaca(6)])),
    }


def refined(
    client: Client,
    out: Path,
    files: dict[str, str],
    watcher: Watcher | None = None,
    *,
    in_flight: int = 4,
    **more: Any,
) -> RunSummary:
    settings = BmoSettings(**({"model": "base", "seed": 7} | files | more))
    options = RunOptions(batch_size=10, max_in_flight=in_flight)
    return run_recipe(settings, client, out, options=options, observer=watcher)


def test_at_every_pause_the_model_of_that_moment_answers_what_weighs_least(
    fakes: FakeServices, client: Client, files: dict[str, str], tmp_path: Path
) -> None:
    watcher, out = Watcher(), tmp_path / "out"
    summary = refined(client, out, files, watcher, random_subsets=1, online_share=0.1, responses=3)
    assert [s.name for s in watcher.steps] == [
        *("read", "split", "evaluate", "respond", "probe", "respond", "probe", "train", "evaluate", "weigh", "decide"),
        "assemble",
        *("train", "evaluate") * 4,
    ]
    with history(out) as h:
        refreshes, weights = h.refreshes.of_round(1), {step: h.weights(1, step) for step in h.weight_steps(1)}
        asked = {one.step: {a.row_id for a in h.refreshes.answers(1, one.step)} for one in refreshes}
        decided = {one.row_id: one for one in h.decisions(1)}
        final = dict(h.conversations(2))
    assert [(one.step, one.reason, one.stopped) for one in refreshes] == [(1, "schedule", ""), (2, "schedule", "")]
    for step, rows in asked.items():
        order = sorted(weights[step], key=lambda name: weights[step][name].logit)
        assert rows == set(order[:4]), "a tenth of 43 rows"
    models = [request.model.uri for request in fakes.requests("GenerateResponses")]
    assert [uri.rsplit("/", 1)[1] for uri in dict.fromkeys(models)] == ["step-1", "step-2"]
    resumed = fakes.requests("ResumeRun")
    assert [(one.step, one.last) for one in resumed] == [(1, False), (2, False)]
    lines = [json.loads(line) for line in Path(resumed[1].responses_uri).read_text().splitlines()]
    assert {line["id"] for line in lines} == asked[2]
    assert all(len(line["responses"]) == 3 for line in lines)
    assert all(len(one["token_ids"]) == len(one["logprobs"]) > 0 for line in lines for one in line["responses"])
    learning, *others = [request.spec for request in fakes.requests("CreateRun")]
    assert learning.HasField("refinement")
    assert not any(spec.HasField("refinement") for spec in others)
    # What was answered last and would be left out stays, with the model's own answer.
    assert Counter(one.actions[0] for one in decided.values()) == {"keep": 34, "drop": 5, "refine": 4}
    assert {name for name, one in decided.items() if one.actions == ("refine",)} == asked[2]
    origins = Counter(row.origin for row in final)
    assert (summary.rows_out, origins) == (38, {"source": 34, "refine": 4})
    assert all(messages[-1].content.startswith("yes") for row, messages in final.items() if row.origin == "refine")
    done = {row["row_id"]: row for row in map(json.loads, (out / "final/provenance.jsonl").read_text().splitlines())}
    one = done[min(asked[2])]
    assert one["actions"] == [{"round": 1, "action": "refine", "accepted": True}]
    assert any("own answer takes its place" in reason for reason in one["reasons"])


def test_questions_can_be_drawn_at_random(client: Client, files: dict[str, str], tmp_path: Path) -> None:
    refined(client, tmp_path / "out", files, compare=False, questions="random")
    with history(tmp_path / "out") as h:
        first, second = ({a.row_id for a in h.refreshes.answers(1, step)} for step in (1, 2))
    assert len(first) == len(second) == 4
    assert first != second


def test_answers_are_checked_and_where_most_are_refused_it_stops(
    fakes: FakeServices, client: Client, files: dict[str, str], tmp_path: Path
) -> None:
    endless = [{**row, "instruction": f"endless {row['instruction']}"} for row in ROWS]
    watcher, out = Watcher(), tmp_path / "out"
    refined(client, out, files | {"data": str(write_jsonl(tmp_path / "endless.jsonl", endless))}, watcher)
    assert [(one.step, one.responses_uri, one.last) for one in fakes.requests("ResumeRun")] == [(1, "", True)]
    assert any("not one answer passes the checks" in note for note in watcher.notes)
    with history(out) as h:
        data = collect(h)
        assert not any(one.actions == ("refine",) for one in h.decisions(1))
    (only,) = data.rounds
    assert isinstance(only, BmoRound)
    assert only.refreshes[0].rejected == {"truncated": 16}
    assert "Answering anew stopped here: not one answer passes the checks" in render(data)


def test_a_run_stopped_in_the_midst_of_a_pause_asks_only_for_what_is_missing(
    fakes: FakeServices, client: Client, files: dict[str, str], tmp_path: Path
) -> None:
    class Stop(Watcher):
        def step_advanced(self, step: Any) -> None:
            if step.name == "respond" and step.done:
                raise Interrupted("enough")

    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        refined(client, out, files, Stop(), in_flight=1, compare=False, online_share=0.5)
    (first,) = fakes.requests("GenerateResponses")
    assert len(first.prompts) == 10, "of twice as many"
    refined(client, out, files, in_flight=1, compare=False, online_share=0.5)
    asked = [(r.model.uri, prompt.id) for r in fakes.requests("GenerateResponses") for prompt in r.prompts]
    with history(out) as h:
        expected = {
            (one.key.model_digest, answer.prompt_hash)
            for one in h.refreshes.of_round(1)
            for answer in h.refreshes.answers(1, one.step)
        }
    assert len(asked) == len(set(asked)) == len(expected), "each question once at each pause"
    assert len(fakes.requests("CreateRun")) == 3, "the same training run is found, and another one is of what it left"


def test_where_the_ledger_lost_what_was_answered_it_is_trained_and_answered_anew(
    fakes: FakeServices, client: Client, files: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refined(client, out, files, compare=False, online_share=0.5)
    trained = len(fakes.requests("CreateRun"))
    (out / "ledger.duckdb").rename(tmp_path / "away")
    refined(client, out, files, compare=False, online_share=0.5)
    with history(out) as h:
        assert any(d.actions[0] == "refine" for d in h.decisions(1)), "they were lost, and are there again"
        assert h.refreshes.of_round(1)
    assert len(fakes.requests("CreateRun")) == trained + 2, "another one, and S"


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Path]]:
    """Services on the fake engine, each in a process of its own."""
    folder = tmp_path_factory.mktemp("apart")
    model = folder / "model"
    write_fake_model(model, name="base", seed=1, skill=0.3)
    roles = ["scoring", "rewriting", "training"]
    with (
        LocalServices(roles, engine="fake", model=model, state_dir=folder / "state", separate=True) as local,
        Client(local.endpoints) as client,
    ):
        yield client, model


def test_training_and_rewriting_meet_only_in_the_model_that_is_named(
    apart: tuple[Client, Path], files: dict[str, str], tmp_path: Path
) -> None:
    client, model = apart
    batches = {"per_device_batch_size": 4, "gradient_accumulation_steps": 2}
    refined(client, tmp_path / "out", files, model=str(model), random_subsets=1, training=batches)
    with history(tmp_path / "out") as h:
        data = collect(h)
        told = next(one.row_id for one in h.decisions(1) if one.actions == ("refine",))
        story = story_of(h, told)
    (only,) = data.rounds
    assert isinstance(only, BmoRound)
    assert [one.step for one in only.refreshes] == [6, 12], "after each pass of six steps but the last"
    assert all(one.num_accepted and one.divergence is not None and one.entropy for one in only.refreshes)
    assert len({one.step for one in story.rounds[0].answers}) == 2
    assert any(worker.did.startswith("said how far") for worker in story.rounds[0].workers)
    page = render(data)
    assert "What the model answered anew" in page
    assert "what was kept, and what was answered anew" in page


@pytest.mark.engine
@pytest.mark.slow
def test_a_real_model_answers_with_its_weights_of_the_pause(files: dict[str, str], tmp_path: Path) -> None:
    """The transformers engine, with the training in a process of its own."""
    model = write_tiny_model(tmp_path / "model")
    batches = {"per_device_batch_size": 4, "gradient_accumulation_steps": 4, "learning_rate": 1e-3, "max_steps": 1}
    limits = {"min_accepted": 0.0, "max_answer_tokens": 12, "online_share": 0.5, "compare": False}
    with (
        LocalServices(
            ["scoring", "rewriting"], engine="transformers", model=model, state_dir=tmp_path / "a"
        ) as answers,
        LocalServices(["training"], engine="transformers", state_dir=tmp_path / "b") as trains,
        Client(replace(answers.endpoints, training=trains.endpoints.training)) as client,
    ):
        refined(client, tmp_path / "out", files, model=str(model), training=batches, selection_epochs=1.5, **limits)
    with history(tmp_path / "out") as h:
        (refresh,) = h.refreshes.of_round(1)
        models = h.models()
    assert refresh.step == 3
    assert refresh.vitals.num_answers == 4 * refresh.vitals.num_questions == 84
    assert refresh.vitals.entropy is not None
    assert 0 < refresh.vitals.entropy <= math.log(320), "of random weights, at most that of the vocabulary"
    assert len({refresh.key.model_digest, *(model.digest for model in models)}) == 4


def test_a_run_in_which_no_question_would_be_answered_is_refused(files: dict[str, str]) -> None:
    with pytest.raises(InputError, match="selection_epochs is 1 and the first pause comes after a pass over the data"):
        BmoSettings.parse({"model": "base", "selection_epochs": 1, **files})
    assert BmoSettings.parse({"model": "base", "selection_epochs": 1, "warmup_steps": 2, **files}).warmup_steps == 2
