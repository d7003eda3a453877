"""The loop against made-up services: what is asked for, what never twice, and how it stops, fails and goes on."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest

from burnish import Client
from burnish._client import AsyncClient
from burnish._errors import PreconditionFailed, ServiceError
from burnish.api.embedding.v1 import embedding_pb2
from burnish.cli.explain import told
from burnish.coordinator.errors import DataError, Interrupted, LedgerBusy, LedgerError, RunMismatch, StepFailed
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.loop import RunOptions, RunSummary, resume, run_recipe, run_recipe_async
from burnish.coordinator.progress import StepProgress, read_status
from burnish.coordinator.steps import train as train_module
from burnish.coordinator.steps.stage import Stage
from burnish.coordinator.story import story_of
from burnish.report.collect import collect
from burnish.report.data import MiddoRound
from burnish.report.render import render
from burnish.testing import FakeServices
from burnish_services.training.runs import run_id_of
from tests.e2e.support import Watcher, alpaca, digest_of_final, history, run, settings, write_jsonl

SMALL = RunOptions(batch_size=5, max_in_flight=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", alpaca(60))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of what a run on `data` makes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with FakeServices() as services, Client(services.endpoints) as opened:
        run(opened, folder / "out", write_jsonl(folder / "data.jsonl", alpaca(60)))
    return digest_of_final(folder / "out")


def asked(fakes: FakeServices, method: str) -> Counter[tuple[str, str]]:
    """How often each (model, sample) was asked for."""
    return Counter((r.model.uri, s.id) for r in fakes.requests(method) for s in r.samples)


def stop_at(
    fakes: FakeServices, out: Path, data: Path, moment: tuple[int, str], *, options: RunOptions = SMALL
) -> None:
    """Runs until the first batch of a step is in, then asks to stop."""

    class Stopper(Watcher):
        def step_advanced(self, step: StepProgress) -> None:
            if (step.round, step.name) == moment and step.done:
                stop.set()

    async def work() -> RunSummary:
        async with AsyncClient(fakes.endpoints) as client:
            return await run_recipe_async(settings(data), client, out, options=options, observer=Stopper(), stop=stop)

    stop = asyncio.Event()
    with pytest.raises(Interrupted, match="run the same command again"):
        asyncio.run(work())


def test_training_by_another_template_than_scoring_is_stopped_at_once(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    def another(reply: Any) -> None:
        reply.run.chat_template_digest = "f" * 16

    fakes.change_reply("WatchRun", another)
    with pytest.raises(StepFailed, match=r"another chat template \(f{16}\) than the scoring service \(0{16}\)"):
        run(client, tmp_path / "out", data)
    assert len(fakes.requests("CancelRun")) == 1
    assert not fakes.requests("ScoreSamples")


def test_a_run_goes_through_all_steps_and_adds_up(client: Client, data: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    summary = run_recipe(settings(data, rounds=2), client, tmp_path / "out", observer=watcher)
    names = [(s.round, s.name) for s in watcher.steps]
    one_round = ["train", "score_pre", "score_post", "embed", "project", "judge", "decide", "refine", "assemble"]
    assert names == [(0, "read"), *[(1, n) for n in one_round], *[(2, n) for n in one_round], (3, "train")]
    assert [(m.round, m.role) for m in summary.models] == [(0, "base"), (1, "trained"), (2, "trained"), (3, "trained")]
    with history(tmp_path / "out") as h:
        rows = {d.round: d.num_rows for d in h.datasets()}
        for number in (1, 2):
            decisions, rewrites = h.decisions(number), h.rewrites(number)
            assert len(decisions) == rows[number]
            assert len(rewrites) == sum(action != "keep" for d in decisions for action in d.actions)
            replaced = {r.row_id for r in rewrites if r.after is not None and r.strategy != "diversify"}
            made = sum(r.after is not None for r in rewrites)
            assert rows[number + 1] == rows[number] + made - len(replaced)
            assert {t.signal for t in h.thresholds(number)} == {"loss_pre", "loss_post", "mean_cosine", "quality"}
            assert all(s.state == "done" for s in h.steps())
        assert h.run.finished_at is not None
        assert summary.rows_out == rows[3] > summary.rows_in == 60
        trained = h.models()[1]
        assert trained.training_run is not None
        assert h.training_losses(1, trained.training_run) == [(1, 2.0), (2, 1.0), (3, pytest.approx(2 / 3))]


def test_replies_that_came_together_with_a_failed_one_are_kept(tmp_path: Path) -> None:
    """Several batches may be answered before the run looks again."""

    class Run:
        options, stop, book, observer = SMALL, asyncio.Event(), MagicMock(), Watcher()

    stage, kept = Stage.__new__(Stage), []
    stage.run, stage.advance, stage.show = Run(), lambda *_: None, lambda: None  # type: ignore[method-assign, assignment]

    async def send(batch: Sequence[int]) -> int:
        if batch[0] == 0:
            raise StepFailed("no")
        return batch[0]

    with pytest.raises(StepFailed):
        asyncio.run(stage._pass(range(15), send, lambda _, reply: kept.append(reply), counting=False))
    assert kept == [5, 10]


def test_scores_that_were_paid_for_are_not_asked_for_again(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    watcher = Watcher()
    run_recipe(settings(data, rounds=2), client, tmp_path / "out", observer=watcher)
    for method in ("ScoreSamples", "JudgeSamples"):
        assert set(asked(fakes, method).values()) == {1}
    assert watcher.step(2, "score_pre").reused > 0  # rows that round 1 left alone
    before = {m: len(fakes.requests(m)) for m in ("ScoreSamples", "JudgeSamples", "RewriteSamples", "CreateRun")}
    again = run_recipe(settings(data, rounds=2), client, tmp_path / "out")
    assert before == {m: len(fakes.requests(m)) for m in before}
    assert again.rows_out == len((tmp_path / "out/final/data.jsonl").read_text().splitlines())


def test_the_same_seed_makes_the_same_data_whatever_the_batches_and_another_seed_does_not(
    client: Client, data: Path, tmp_path: Path
) -> None:
    for name, options in (("a", SMALL), ("b", RunOptions(batch_size=64, max_in_flight=1))):
        run_recipe(settings(data, control="random"), client, tmp_path / name, options=options)
    assert digest_of_final(tmp_path / "a") == digest_of_final(tmp_path / "b")
    run_recipe(settings(data, control="random", seed=8), client, tmp_path / "c")
    assert digest_of_final(tmp_path / "a") != digest_of_final(tmp_path / "c")


@pytest.mark.parametrize("moment", [(1, "score_pre"), (1, "score_post"), (1, "embed"), (1, "judge"), (1, "refine")])
def test_a_stop_lets_what_is_on_the_way_come_in_and_loses_nothing(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, moment: tuple[int, str], undisturbed: str
) -> None:
    stop_at(fakes, tmp_path / "out", data, moment)
    status = read_status(tmp_path / "out")
    assert status is not None
    assert (status.state, status.step.name if status.step else "") == ("interrupted", moment[1])
    watcher = Watcher()
    run_recipe(settings(data), client, tmp_path / "out", options=SMALL, observer=watcher)
    assert watcher.resumed
    for method in ("ScoreSamples", "JudgeSamples", "EmbedSamples"):
        assert set(asked(fakes, method).values()) == {1}
    items = Counter((r.strategy, i.sample.id) for r in fakes.requests("RewriteSamples") for i in r.items)
    assert set(items.values()) == {1}
    assert digest_of_final(tmp_path / "out") == undisturbed
    final = read_status(tmp_path / "out")
    assert final is not None
    assert final.state == "done"


def test_a_stop_during_training_leaves_the_training_run_and_finds_it_again(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    fakes.finish_runs = False

    async def work() -> None:
        stop = asyncio.Event()
        async with AsyncClient(fakes.endpoints) as own:
            run = asyncio.create_task(run_recipe_async(settings(data), own, tmp_path / "out", stop=stop))
            while not fakes.requests("CreateRun"):  # noqa: ASYNC110 - the fakes have no event for it
                await asyncio.sleep(0.05)
            stop.set()
            await run

    with pytest.raises(Interrupted):
        asyncio.run(work())
    fakes.finish_runs = True
    resume(tmp_path / "out", client)
    ids = [r.request_id for r in fakes.requests("CreateRun")]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 2  # the second round's training is the other one


def test_a_service_that_breaks_ends_the_step_and_only_the_rest_is_asked_for_later(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    class Breaker(Watcher):
        def step_advanced(self, step: StepProgress) -> None:
            if step.name == "judge" and step.done == 20:
                fakes.fail_next("JudgeSamples", grpc.StatusCode.INTERNAL, "out of luck", times=10)

    one_at_a_time = RunOptions(batch_size=5, max_in_flight=1)
    with pytest.raises(ServiceError, match="out of luck"):
        run_recipe(settings(data), client, tmp_path / "out", options=one_at_a_time, observer=Breaker())
    status = read_status(tmp_path / "out")
    assert status is not None
    assert status.state == "failed"
    assert "out of luck" in status.message
    with history(tmp_path / "out") as h:
        (step,) = [s for s in h.steps() if s.name == "judge"]
        assert (step.state, step.done, step.total) == ("failed", 20, 60)
    fakes._record.failures["JudgeSamples"].clear()
    failed = sum(len(r.samples) for r in fakes.requests("JudgeSamples")) - 20
    run_recipe(settings(data), client, tmp_path / "out", options=one_at_a_time)
    assert sum(len(r.samples) for r in fakes.requests("JudgeSamples")) == 60 + failed


def test_items_to_be_retried_are_asked_for_again_and_others_are_not(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    seen: Counter[tuple[str, str]] = Counter()

    def fail(reply: Any) -> None:
        """The first time it comes up, the first sample of a batch may be retried, the second may not."""
        for score, reason in zip(reply.scores, ("BUSY", "BAD"), strict=False):
            name = score.sample_id
            seen[reply.model.digest, name] += 1
            if seen[reply.model.digest, name] == 1:
                score.Clear()
                score.sample_id = name
                score.status.code, score.status.reason, score.status.message = 14, reason, "made up"
                score.status.retryable = reason == "BUSY"

    fakes.change_reply("ScoreSamples", fail)
    watcher = Watcher()
    run_recipe(
        settings(data, axes=["hard"]), client, tmp_path / "out", options=RunOptions(batch_size=20), observer=watcher
    )
    assert any("asking again for 3 items" in note for note in watcher.notes)
    with history(tmp_path / "out") as h:
        failures = {(f.step, f.reason): f.count for f in h.failures(1)}
        assert failures == {("score_pre", "BAD"): 3, ("score_post", "BAD"): 3}
        assert [t.num_excluded for t in h.thresholds(1)] == [3, 3]
        missing = [d for d in h.decisions(1) if d.signals["loss_pre"] is None]
        assert len(missing) == 3
        assert all(d.actions == ("keep",) for d in missing)
    assert max(asked(fakes, "ScoreSamples").values()) == 2


def test_other_settings_or_data_in_the_same_folder_are_refused_by_name(
    client: Client, data: Path, tmp_path: Path
) -> None:
    run(client, tmp_path / "out", data)
    with pytest.raises(RunMismatch, match=r"k: 2 there, 3 now; seed: 7 there, 8 now"):
        run(client, tmp_path / "out", data, seed=8, k=3)
    write_jsonl(data, alpaca(61))
    with pytest.raises(RunMismatch, match=r"\(data: sha256:"):
        run(client, tmp_path / "out", data)
    moved = write_jsonl(tmp_path / "elsewhere.jsonl", alpaca(60))
    run(client, tmp_path / "out", moved)  # the same content in another place is the same data


def test_bad_data_may_be_mended_or_skipped_without_another_folder(client: Client, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", [*alpaca(20), {"instruction": "Hi", "output": ""}])
    for _ in range(2):
        with pytest.raises(DataError, match=r'row 21: "output" is empty'):
            run(client, tmp_path / "out", data, axes=["hard"])
    assert run(client, tmp_path / "out", data, skip_bad_rows=True, axes=["hard"]).rows_in == 20
    with history(tmp_path / "out") as h:
        assert h.run.source is not None
        assert h.run.source["num_skipped"] == 1


def test_a_run_goes_on_without_its_settings_and_with_other_options(client: Client, data: Path, tmp_path: Path) -> None:
    run_recipe(settings(data), client, tmp_path / "out", options=RunOptions(truth="truth.jsonl"))
    data.unlink()  # all that matters is in the ledger
    summary = resume(tmp_path / "out", client)
    assert summary.rows_in == 60
    with history(tmp_path / "out") as h:
        config: Any = h.run.config
        assert config["options"]["truth"] == "truth.jsonl"
    assert json.loads((tmp_path / "out/config.json").read_text())["run_id"] == summary.run_id
    with pytest.raises(LedgerError, match="holds no run"):
        resume(tmp_path / "nothing", client)


def test_two_coordinators_never_share_a_run(client: Client, data: Path, tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "out/ledger.duckdb"), pytest.raises(LedgerBusy, match="is being written by process"):
        run(client, tmp_path / "out", data)


def test_a_model_that_changed_on_disk_stops_the_run(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    fakes.fail_next(
        "ScoreSamples", grpc.StatusCode.FAILED_PRECONDITION, "other weights", reason="MODEL_DIGEST_MISMATCH", times=9
    )
    with pytest.raises(StepFailed, match=r"not what it was when this run began.*other weights"):
        run(client, tmp_path / "out", data)
    fakes._record.failures["ScoreSamples"].clear()
    fakes.fail_next("ScoreSamples", grpc.StatusCode.FAILED_PRECONDITION, "canary", reason="CANARY_FAILED", times=9)
    with pytest.raises(PreconditionFailed, match="canary"):
        run(client, tmp_path / "out", data)


def test_a_training_run_that_failed_is_tried_anew_when_the_run_goes_on(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fail"  # the fake fails training on such a path
    for _ in range(2):
        with pytest.raises(StepFailed, match="did not make a model: made up: LOSS_NOT_FINITE"):
            run(client, out, data)
    ids = [r.request_id for r in fakes.requests("CreateRun")]
    assert [i.rsplit("-", 1)[1] for i in ids] == ["a1", "a2"]
    assert len({i.rsplit("-", 1)[0] for i in ids}) == 1


def test_attempts_that_ended_badly_are_not_asked_for_again(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may have removed them, and would train them for nobody."""
    out = tmp_path / "fail"  # the fake fails training on such a path
    with pytest.raises(StepFailed, match="did not make a model"):
        run(client, out, data)
    (watched,) = {request.run_id for request in fakes.requests("WatchRun")}
    (first,) = (request.request_id for request in fakes.requests("CreateRun"))
    assert train_module._run_of(first) == run_id_of(first), "what the real service calls it"
    assert run_id_of(first).startswith(watched)
    monkeypatch.setattr(train_module, "_run_of", lambda request: run_id_of(request)[: len(watched)])
    fakes._state.runs.clear()
    with pytest.raises(StepFailed, match="did not make a model"):
        run(client, out, data)
    ids = [request.request_id for request in fakes.requests("CreateRun")]
    assert [one.rsplit("-", 1)[1] for one in ids] == ["a1", "a2"]


def test_copies_of_a_row_share_what_is_measured_and_keep_their_places(
    fakes: FakeServices, client: Client, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", alpaca(30, duplicates=5))
    run(client, tmp_path / "out", data)
    assert sum(len(r.samples) for r in fakes.requests("JudgeSamples")) == 30
    with history(tmp_path / "out") as h:
        by_id = {d.row_id: d for d in h.decisions(1)}
        assert len(by_id) == 35
        for i in range(5):
            copy, original = by_id[f"copy{i}"], by_id[f"s{i}"]
            assert copy.signals == original.signals
            assert original.signals["mean_cosine"] is not None
            assert original.signals["mean_cosine"] > 0.5  # its own copy is a neighbour with cosine 1
        assert [r.row_id for r in h.rows(2)][:35] == [r.row_id for r in h.rows(1)]


def test_held_out_loss_is_measured_for_every_model_by_the_same_service(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    rows = alpaca(70)
    holdout = write_jsonl(tmp_path / "holdout.jsonl", rows[58:])
    watcher = Watcher()
    summary = run_recipe(settings(data, holdout=str(holdout)), client, tmp_path / "out", observer=watcher)
    assert all(m.eval_loss is not None and m.eval_loss > 0 for m in summary.models)
    assert len({m.eval_loss for m in summary.models}) == 3
    assert any("2 held-out samples are in the training data" in note for note in watcher.notes)
    assert {r.spec.eval_data_uri for r in fakes.requests("CreateRun")} == {""}, "measured twice"
    trained_on = (tmp_path / "out/data/round-1.jsonl").read_text()
    assert rows[65]["instruction"] not in trained_on


def test_the_random_control_touches_as_many_rows_by_the_same_means(client: Client, data: Path, tmp_path: Path) -> None:
    counts = []
    for control in ("none", "random"):
        run(client, tmp_path / control, data, control=control)
        with history(tmp_path / control) as h:
            counts.append(Counter(d.actions for d in h.decisions(1)))
            touched = {d.row_id for d in h.decisions(1) if d.actions != ("keep",)}
        counts.append(Counter(touched))
    assert counts[0] == counts[2]
    assert counts[1] != counts[3]


def test_the_published_method_runs_and_its_sizes_add_up(fakes: FakeServices, client: Client, tmp_path: Path) -> None:
    rows = alpaca(60, duplicates=4)
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    summary = run(client, tmp_path / "out", data, compat=True, m_sparse=0.8, m_quality=0.8)
    with history(tmp_path / "out") as h:
        decisions = h.decisions(1)
        made = sum(r.after is not None for r in h.rewrites(1))
        remain = {
            (r["instruction"], r["output"])
            for r, d in zip(rows, decisions, strict=True)
            if "hard" not in d.axes and "low_quality" not in d.axes
        }
        assert summary.rows_out == len(remain) + made
        assert len({r.row_id for r in h.rows(2)}) == summary.rows_out
        origins = [r.origin for r in h.rows(2)]
        assert origins == sorted(origins, key=["source", "simplify", "diversify", "improve"].index)
    (judged,) = {r.sampling.max_tokens for r in fakes.requests("JudgeSamples")}
    assert judged == 1024
    assert {r.max_attempts for r in fakes.requests("RewriteSamples")} == {1}


def test_axes_that_are_off_ask_for_nothing(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    run(client, tmp_path / "out", data, axes=["low_quality"])
    assert not fakes.requests("ScoreSamples")
    assert not fakes.requests("EmbedSamples")
    with history(tmp_path / "out") as h:
        assert [t.signal for t in h.thresholds(1)] == ["quality"]


def test_vectors_that_the_service_lost_are_made_anew(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, undisturbed: str
) -> None:
    stop_at(fakes, tmp_path / "out", data, (1, "embed"))
    fakes._state.collections.clear()
    watcher = Watcher()
    run_recipe(settings(data), client, tmp_path / "out", observer=watcher)
    assert any("gone from the service; embedding anew" in note for note in watcher.notes)
    assert digest_of_final(tmp_path / "out") == undisturbed


def test_old_models_may_be_deleted(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Publisher(Watcher):
        def step_finished(self, step: StepProgress) -> None:
            if step.name == "train":
                (out / f"models/round-{step.round}").mkdir(parents=True)

    run_recipe(settings(data), client, out, options=RunOptions(keep_models="last"), observer=Publisher())
    assert [p.name for p in (out / "models").iterdir()] == ["round-2"]


def test_a_reply_by_other_weights_than_asked_for_is_not_believed(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    def lie(reply: Any) -> None:
        reply.model.digest = "sha256:" + "f" * 64

    fakes.change_reply("ScoreSamples", lie)
    with pytest.raises(StepFailed, match="answered with other weights"):
        run(client, tmp_path / "out", data)
    with history(tmp_path / "out") as h:
        assert h._ledger.select("SELECT count(*) FROM score") == [(0,)]


def test_rejected_rewrites_leave_the_original_and_are_reported(client: Client, tmp_path: Path) -> None:
    rows = alpaca(40)
    for row in rows:
        row["instruction"] += " reject"
    data = write_jsonl(tmp_path / "d.jsonl", rows)
    summary = run(client, tmp_path / "out", data)
    assert summary.rows_out == 40
    assert [json.loads(line) for line in (tmp_path / "out/final/data.jsonl").read_text().splitlines()] == rows
    with history(tmp_path / "out") as h:
        assert {f.reason for f in h.failures(1) if f.step == "refine"} == {"REJECTED"}
        assert all(r.after is None and r.attempts for r in h.rewrites(1))
        report = collect(h)
    (first,) = report.rounds
    assert isinstance(first, MiddoRound)
    assert (first.rejected, first.failed) == (len(first.changes), 0)
    assert any("were rejected by validation, their originals kept. A larger refiner" in note for note in report.notes)


def test_rewrites_that_the_service_could_not_make_are_told_from_rejected_ones(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    def fail(reply: Any) -> None:
        for rewrite in reply.rewrites:
            rewrite.ClearField("sample")
            rewrite.ClearField("attempts")
            rewrite.status.code, rewrite.status.reason, rewrite.status.message = 3, "TOO_LONG", "too long"

    fakes.change_reply("RewriteSamples", fail)
    run(client, tmp_path / "out", data)
    with history(tmp_path / "out") as h:
        report = collect(h)
    (first,) = report.rounds
    assert isinstance(first, MiddoRound)
    assert (first.rejected, first.failed) == (0, len(first.changes))
    assert first.failed > 0
    (note,) = [note for note in report.notes if "could not be made (TOO_LONG" in note]
    assert note.startswith(f"Round 1: {first.failed} of {first.failed} rewrites")
    assert not any("refiner would do better" in note or "rejected by validation" in note for note in report.notes)
    page = render(report)
    assert f"<b>{first.failed}</b><span>rewrites could not be made</span>" in page
    assert '<span class="tag rejected">not made: too long</span>' in page
    assert '<th class="n">Not made</th>' in page


def test_a_row_of_middo_tells_its_story(client: Client, data: Path, tmp_path: Path) -> None:
    run_recipe(settings(data, rounds=2), client, tmp_path / "out")
    with history(tmp_path / "out") as h:
        rewritten = next(r for r in h.rewrites(1) if r.after is not None and r.strategy == "improve")
        added = next(row for row in h.rows(3) if row.origin == "diversify")
        story, new = story_of(h, rewritten.row_id), story_of(h, added.row_id)
        text, news = "\n".join(told(story)), "\n".join(told(new))
    assert [one.round for one in story.rounds] == [1, 2]
    assert story.rounds[1].messages == rewritten.after or len(story.rounds[0].rewrites) > 1
    assert "Rewrite to improve, attempt 1:" in text
    assert "rewrote it." in text
    assert "Decision: " in text
    assert new.final is not None
    assert "In the newest data set:" in news


def test_neighbours_that_were_not_sought_among_all_are_told_of(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    def approximate(reply: Any) -> None:
        reply.search.CopyFrom(embedding_pb2.NeighborSearch(recall=0.962, num_queries=500, num_cells=700, num_probed=5))

    fakes.change_reply("GetNeighborStatistics", approximate)
    watcher = Watcher()
    run_recipe(settings(data), client, tmp_path / "out", observer=watcher)
    said = "Of the true nearest neighbours 96.2% were found, measured on 500 samples"
    assert [note for note in watcher.notes if said in note]
    with history(tmp_path / "out") as h:
        (embed,) = [step for step in h.steps() if step.name == "embed"]
        notes = collect(h).notes
    assert {"model", "collection", "recall", "num_queries"} <= set(embed.detail)
    assert (embed.detail["recall"], embed.detail["num_queries"]) == (0.962, 500)
    assert [note for note in notes if note.startswith(f"Round 1: {said}")]
