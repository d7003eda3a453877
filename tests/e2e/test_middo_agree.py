"""Middo where two models must agree on a rewrite: who is asked, what goes on, what leaves, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish._types import Message, Role
from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.cli.explain import told
from burnish.coordinator.content import sample_hash
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.loop import run_recipe
from burnish.coordinator.policy.acceptance import Accept, Refusal, Rejected, Trial, decide
from burnish.coordinator.policy.middo import Action
from burnish.coordinator.provenance import dropped, provenance
from burnish.coordinator.story import story_of
from burnish.report.collect import collect
from burnish.report.render import MAX_CHANGES_SHOWN, render
from burnish.testing import FakeServices
from tests.e2e.support import Watcher, alpaca, digest_of_final, history, settings, write_jsonl

SHARES = {"share_sparse": 0.2, "share_quality": 0.3, "share_loss": 0.3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = alpaca(60)
    for row in rows[::7]:
        row["instruction"] += " reject"
    return write_jsonl(tmp_path / "data.jsonl", rows)


def test_only_what_both_models_have_nothing_against_goes_on(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    watcher = Watcher()
    out = tmp_path / "out"
    summary = run_recipe(settings(data, accept="agree", **SHARES), client, out, observer=watcher)
    names = [s.name for s in watcher.steps if s.round == 1]
    assert names[names.index("refine") :] == ["refine", "score_rewrites", "judge_rewrites", "accept", "assemble"]
    scored = watcher.step(1, "score_rewrites")
    with history(out) as h:
        rewrites, verdicts = h.rewrites(1), h.acceptance.of_round(1)
        assert [(r.row_id, r.strategy, r.acceptance) for r in rewrites] == [
            (v.row_id, v.strategy, v) for v in verdicts
        ], "one verdict for each that was asked for"
        made = [one for one in h.acceptance.asked(1) if one.result_hash is not None]
        assert scored.reused == len({one.sample_hash for one in made}), "originals were scored as the round's rows"
        kinds = {v.refusal for v in verdicts}
        assert kinds >= {"", "invalid", "loss", "rating"}
        assert not any(v.dropped for v in verdicts)
        line = next(line.tau for line in h.thresholds(1) if line.signal == "loss_post")
        again = [
            Trial(
                v.row_id,
                Action(v.strategy),
                Refusal(v.refusal) if v.refusal in ("invalid", "failed") else Refusal.NONE,
                *(v.loss_before, v.loss_after, v.quality_before, v.quality_after),
            )
            for v in verdicts
        ]
        assert decide(again, Accept.AGREE, Rejected.KEEP, line) == verdicts, "it can be replayed"
        models = {m.role: m.digest for m in h.models() if m.round < 2}
        asked = {s.name: s.detail["model"] for s in h.steps() if s.round == 1 and "model" in s.detail}
        assert asked["score_rewrites"]["digest"] == models["trained"]  # type: ignore[index]
        assert asked["judge_rewrites"]["digest"] == models["base"]  # type: ignore[index]

        before = {row.row_id: row for row in h.rows(1)}
        after = {row.row_id: row for row in h.rows(2)}
        accepted = {(v.row_id, v.strategy) for v in verdicts if v.accepted}
        replaced = {name for name, strategy in accepted if strategy != "diversify"}
        assert before.keys() <= after.keys()
        assert {name for name in before if after[name].sample_hash != before[name].sample_hash} == replaced
        assert summary.rows_out == len(after) == 60 + len(accepted) - len(replaced)
        said = {
            (one["row_id"], done["action"]): done["accepted"] for one in provenance(h, 2) for done in one["actions"]
        }
        for v in verdicts:
            assert said[v.row_id, v.strategy] == v.accepted
        refused = next(v for v in verdicts if v.refusal == "loss")
        (entry,) = [one for one in provenance(h, 2) if one["row_id"] == refused.row_id]
        assert any("is above" in reason for reason in entry["reasons"])


def test_what_would_be_replaced_may_be_dropped_instead(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_recipe(settings(data, accept="none", rejected="drop", **SHARES), client, out)
    with history(out) as h:
        replaced = {v.row_id for v in h.acceptance.of_round(1) if v.strategy != "diversify"}
        assert replaced
        assert {row.row_id for row in h.rows(1)} - {row.row_id for row in h.rows(2)} == replaced
        assert {row.origin for row in h.rows(2)} == {"source"}
        page = render(collect(h))
        written = h.rewrites(1)
    assert {(one.row_id, one.after) for one in written if one.strategy != "diversify"} == {(n, None) for n in replaced}
    assert "none is accepted in this run" in page
    assert f"nothing was rewritten, since no rewrite is accepted in this run; the set lost {len(replaced)} that" in page
    assert "not made: none is accepted in this run" in page
    assert "rejected by validation" not in page
    assert "Which rewrites were accepted" not in page


def test_a_row_whose_rewrites_are_refused_leaves_where_that_is_asked(
    client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = run_recipe(settings(data, accept="agree", rejected="drop", **SHARES), client, out)
    with history(out) as h:
        verdicts = h.acceptance.of_round(1)
        gone = {v.row_id for v in verdicts if v.dropped}
        assert gone
        assert {row.row_id for row in h.rows(1)} - {row.row_id for row in h.rows(2)} == gone
        for name in gone:
            mine = [v for v in verdicts if v.row_id == name and v.strategy != "diversify"]
            assert mine
            assert not any(v.accepted for v in mine)
        listed = list(dropped(h, 2))
        assert {one["row_id"] for one in listed} == gone
        assert all("and the row dropped" in " ".join(one["reasons"]) for one in listed)
        assert all(one["signals"].keys() == {"loss_pre", "loss_post", "mean_cosine", "quality"} for one in listed)
        by_numbers = next(v for v in verdicts if v.dropped and v.refusal == "loss")
        story = "\n".join(told(story_of(h, by_numbers.row_id)))
        report = collect(h)
        page = render(report)
    assert (
        f"Loss under the round's model: {by_numbers.loss_before:.3f} before, {by_numbers.loss_after:.3f} after" in story
    )
    assert "It is not in the newest data set. Rewrite to" in story
    assert "rated it and what was made of it." in story
    (one,) = report.rounds
    tried = one.tried  # type: ignore[union-attr]
    assert tried is not None
    assert tried.dropped == len(gone)
    parts = (tried.accepted, tried.invalid, tried.by_loss, tried.by_rating, tried.by_both, tried.unknown)
    assert sum(parts) == tried.asked == len(verdicts)
    assert report.short is not None
    assert report.short.flow is not None
    assert report.short.flow.dropped == len(gone)
    assert "Which rewrites were accepted" in page
    assert page.count(">row dropped<") == sum(v.dropped for v in verdicts[:MAX_CHANGES_SHOWN])
    files = {path.name for path in summary.files}
    assert "dropped.jsonl" in files
    assert len((out / "final/dropped.jsonl").read_text().splitlines()) == len(gone)


def test_what_cannot_be_measured_is_not_accepted_and_costs_no_row(
    fakes: FakeServices, client: Client, tmp_path: Path
) -> None:
    """Every second rewrite gets no loss, and no sample a rating by the base model."""

    def note(reply: Any) -> None:
        for rewrite in reply.rewrites[::2]:
            unscored.add(
                sample_hash(
                    [Message(Role.USER, m.content) for m in rewrite.sample.messages[:1]]
                    + [Message(Role.ASSISTANT, rewrite.sample.messages[1].content)]
                )
            )

    def without_loss(reply: Any) -> None:
        for score in reply.scores:
            if (name := score.sample_id) in unscored:
                status = common_pb2.ItemStatus(code=3, reason="TOO_LONG")
                score.CopyFrom(scoring_pb2.SampleScore(sample_id=name, status=status))

    def without_numbers(reply: Any) -> None:
        for judgment in reply.judgments:
            for rating in judgment.ratings:
                if rating.HasField("digits"):
                    rating.ClearField("value")
                    rating.ClearField("digits")
                    rating.status.CopyFrom(common_pb2.ItemStatus(code=13, reason="UNPARSEABLE"))

    unscored: set[str] = set()
    fakes.change_reply("RewriteSamples", note)
    fakes.change_reply("ScoreSamples", without_loss)
    fakes.change_reply("JudgeSamples", without_numbers)
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(60))
    out = tmp_path / "out"
    summary = run_recipe(settings(data, accept="agree", rejected="drop", **SHARES), client, out)
    with history(out) as h:
        verdicts = h.acceptance.of_round(1)
        failures = {f.reason: f.count for f in h.failures(1) if f.step == "accept"}
        results = {(one.row_id, one.strategy): one.result_hash for one in h.acceptance.asked(1)}
        notes = collect(h).notes
    assert {v.refusal for v in verdicts} == {"unscored", "unrated", "loss"}
    assert {results[v.row_id, v.strategy] for v in verdicts if v.refusal == "unscored"} == unscored
    unknown = [v for v in verdicts if v.refusal != "loss"]
    assert failures == {name: sum(v.refusal == name for v in verdicts) for name in ("unscored", "unrated")}
    assert not {v.row_id for v in unknown if v.strategy != "diversify"} & {v.row_id for v in verdicts if v.dropped}
    assert summary.rows_out == 60 - len({v.row_id for v in verdicts if v.dropped})
    assert any(f"of {len(unknown)} rewrites a loss or a rating could not be had" in note for note in notes)


def test_dropping_alone_lets_rules_decide(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    run_recipe(settings(data, rejected="drop", **SHARES), client, tmp_path / "out")
    with history(tmp_path / "out") as h:
        assert {s.name for s in h.steps()}.isdisjoint({"score_rewrites", "judge_rewrites"})
        assert {v.refusal for v in h.acceptance.of_round(1)} == {"", "invalid"}
        kept = {row.row_id for row in h.rows(2)}
        texts = {row.row_id: messages[0].content for row, messages in h.conversations(1)}
        selected = {r.row_id for r in h.rewrites(1) if r.strategy != "diversify"}
    assert {name for name in texts if name not in kept} == {name for name in selected if "reject" in texts[name]}


def test_a_set_of_which_nothing_would_be_left_is_refused(client: Client, tmp_path: Path) -> None:
    rows = alpaca(12)
    for row in rows:
        row["instruction"] += " reject"
    data = write_jsonl(tmp_path / "data.jsonl", rows)
    everything = {"axes": "low_quality", "share_quality": 1.0, "unparseable": "zero", "rejected": "drop"}
    with pytest.raises(StepFailed, match=r"no row is left.*--rejected keep"):
        run_recipe(settings(data, **everything), client, tmp_path / "out")


def test_as_published_a_run_is_what_it_was(client: Client, data: Path, tmp_path: Path) -> None:
    plain = run_recipe(settings(data), client, tmp_path / "plain")
    named = run_recipe(settings(data, accept="valid", rejected="keep"), client, tmp_path / "named")
    assert plain.run_id == named.run_id
    assert digest_of_final(tmp_path / "plain") == digest_of_final(tmp_path / "named")
    with history(tmp_path / "plain") as h:
        assert "accept" not in {s.name for s in h.steps()}
        assert not h.acceptance.of_round(1)
        assert all(r.accepted == (r.after is not None) for r in h.rewrites(1))
        assert "Which rewrites were accepted" not in render(collect(h))
