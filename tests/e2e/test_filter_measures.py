"""What filtering holds a row against: its neighbours, and what trusted rows are like. Whole runs on fake services."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish.coordinator.errors import InputError, StepFailed
from burnish.coordinator.loop import run_recipe
from burnish.coordinator.recipes.filter.loop import TRIED
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.steps import measure as measuring
from burnish.report.collect import collect
from burnish.report.render import render
from burnish.testing import FakeServices
from burnish.testing._embedding import FakeEmbedding
from tests.e2e.filtering import filtered, lines
from tests.e2e.support import Watcher, alpaca, history, write_jsonl

ALONE = "Who is here?"


def test_a_row_is_compared_with_its_neighbours_by_prompt(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out, watcher = tmp_path / "out", Watcher()
    settings = FilterSettings(data=str(data), model="base", signal="loss", among=4, keep=0.5)
    assert settings.services() == ("scoring", "embedding", "training")
    filtered(client, data, out, watcher, signal="loss", among=4, keep=0.5)
    assert (1, "embed") in [(step.round, step.name) for step in watcher.steps]
    (asked,) = fakes.requests("GetNeighborStatistics")
    assert asked.k == 4
    with history(out) as h:
        decided = h.decisions(1)
        assert "loss, above the median of its neighbours" in render(collect(h))
    for one in decided:
        value = one.signals["loss"]
        assert value is not None
        where = "above" if value >= 0 else "below"
        assert f"by loss, {abs(value):.4f} {where} the median of its 4 neighbours;" in one.reasons[0]
    relative = {one.row_id: one.signals["loss"] for one in decided}
    assert any(value is not None and value > 0 for value in relative.values()), "a loss alone is never above 0"
    assert Counter(one.actions for one in decided) == {("keep",): 22, ("drop",): 21}


def test_a_row_that_cannot_be_embedded_is_told_with_the_reason(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = FakeEmbedding.EmbedSamples

    def one_is_refused(self: FakeEmbedding, request: Any, context: Any) -> Any:
        for sample in request.samples:
            if sample.messages[0].content == ALONE:
                sample.messages[0].content = " "
        return embed(self, request, context)

    monkeypatch.setattr(FakeEmbedding, "EmbedSamples", one_is_refused)
    with data.open("a") as stream:
        stream.write(json.dumps({"instruction": ALONE, "input": "", "output": "Nobody."}) + "\n")
    with FakeServices() as fakes, Client(fakes.endpoints) as client:
        filtered(client, data, tmp_path / "out", signal="loss", among=4, keep=0.5)
    with history(tmp_path / "out") as h:
        assert [(f.step, f.reason, f.count) for f in h.failures(1)] == [("embed", "EMPTY_PROMPT", 1)]
        (unread,) = [one for one in h.decisions(1) if one.actions == ("unscored",)]
        assert "(made up: EMPTY_PROMPT)" in unread.reasons[0]


def test_neighbours_that_do_not_fit_one_reply_are_asked_for_in_parts(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filtered(client, data, tmp_path / "whole", signal="loss", among=4, keep=0.5)
    monkeypatch.setattr(measuring, "NEIGHBORS_A_REPLY", 50)
    filtered(client, data, tmp_path / "parts", signal="loss", among=4, keep=0.5)
    whole, *parts = (list(request.query_ids) for request in fakes.requests("GetNeighborStatistics"))
    assert (whole, [len(part) for part in parts]) == ([], [10, 10, 10, 10])
    assert len({name for part in parts for name in part}) == 40
    with history(tmp_path / "whole") as one, history(tmp_path / "parts") as other:
        assert one.decisions(1) == other.decisions(1)


def test_trusted_rows_say_what_a_right_row_is_like(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    trusted = write_jsonl(tmp_path / "trusted.jsonl", [{**row, "instruction": "Else?"} for row in alpaca(24)])
    out = tmp_path / "out"
    asked: dict[str, Any] = {"signal": "calibrated", "trusted": str(trusted)}
    filtered(client, data, out, among=4, keep=0.5, **asked)
    with history(out) as h:
        steps = {(step.round, step.name): step.done for step in h.steps()}
        decided = h.decisions(1)
    assert steps[1, "score_trusted"] == 24
    assert re.search(r"by calibrated, [\d.]+ (above|below) the median of its 4 neighbours;", decided[0].reasons[0])
    assert all({"calibrated", "calibrated_odds", "max_nll"} <= one.signals.keys() for one in decided)
    # All of them judge shares, too: no model was trained on them.
    filtered(client, data, tmp_path / "shares", shares="0.5", **asked)
    with history(tmp_path / "shares") as h:
        steps = {(step.round, step.name): step.done for step in h.steps()}
    assert steps[1, "score_trusted"] == steps[TRIED, "score_trusted"] == 24
    # And where half of them teach fold models: none of these is a model that calibrates.
    filtered(
        client, data, tmp_path / "rival", signal="cross_loss", rival="calibrated", shares="0.5", trusted=str(trusted)
    )
    with history(tmp_path / "rival") as h:
        steps = {(step.round, step.name): step.done for step in h.steps()}
    assert steps[1, "score_trusted"] == 24 > steps[TRIED, "score_trusted"]
    few = write_jsonl(tmp_path / "few.jsonl", [{**row, "instruction": "Else?"} for row in alpaca(4)])
    with pytest.raises(StepFailed, match="4 trusted rows could be scored; expected at least 10, better a hundred"):
        filtered(client, data, tmp_path / "few", signal="calibrated", trusted=str(few))
    with pytest.raises(InputError, match="signal calibrated goes by trusted rows, and there are none"):
        FilterSettings.parse({"data": str(data), "model": "base", "signal": "calibrated"})


def test_outliers_go_instead_of_a_share(client: Client, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filtered(client, data, out, signal="loss", outliers=1.0)
    with history(out) as h:
        (line,) = h.thresholds(1)
        assert line.tau is not None
        assert line.share is None
        gone = {one.row_id for one in h.decisions(1) if one.actions == ("drop",)}
        values = {one.row_id: one.signals["loss"] for one in h.decisions(1)}
        assert gone == {name for name, value in values.items() if value is not None and value < line.tau}
        assert 0 < len(gone) < 0.3 * len(values)
        assert {row.row_id for row in h.rows(2)} == values.keys() - gone


def test_outliers_and_a_share_are_refused(tmp_path: Path) -> None:
    for more, other in (
        ({"keep": 0.5}, "keep"),
        ({"keep": 0.7}, "keep"),
        ({"shares": "0.5", "trusted": ["t.jsonl"]}, "shares"),
    ):
        with pytest.raises(InputError, match=f"outliers say which rows go, and {other} how many"):
            FilterSettings.parse({"data": "d.jsonl", "model": "m", "outliers": 3.5, **more})


def test_without_a_share_what_stands_out_goes(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    odd: set[str] = set()

    def one_is_odd(reply: Any) -> None:
        for score in reply.scores:
            score.min_probability = 0.4 + 0.01 * (int(score.sample_id[-2:], 16) % 8)
            if not odd or score.sample_id in odd:
                odd.add(score.sample_id)
                score.min_probability = 1e-6

    fakes.change_reply("ScoreSamples", one_is_odd)
    out = tmp_path / "out"
    run_recipe(FilterSettings(data=str(data), model="base"), client, out)
    with history(out) as h:
        (line,) = h.thresholds(1)
        decided = {one.row_id: one for one in h.decisions(1)}
        gone = {one.sample_hash for one in decided.values() if one.actions == ("drop",)}
        page = render(collect(h))
    assert (line.signal, line.share) == ("weakest", None)
    assert gone == odd
    kept = {row["id"] for row in lines(out / "data/round-2.jsonl")}
    assert kept == {name for name, one in decided.items() if one.actions == ("keep",)}
    assert "The line is 3.5 robust deviations, and at least 4.6, below the median" in page


@pytest.mark.parametrize(
    ("given", "keep", "outliers", "among", "weighted"),
    [
        ({}, 0.7, 3.5, 16, False),
        ({"keep": 0.7}, 0.7, None, 16, False),
        ({"keep": 0.5, "weighted": True}, 0.5, None, 16, True),
        ({"outliers": 2, "weighted": True, "among": 0}, 0.7, 2.0, 0, True),
        ({"shares": "0.7,0.5", "trusted": "t"}, 0.7, None, 16, False),
        # Published methods are as published.
        ({"signal": "ifd"}, 0.7, None, 0, False),
        ({"signal": "cross_weakest"}, 0.7, None, 0, False),
        ({"signal": "calibrated", "trusted": "t"}, 0.7, None, 16, False),
    ],
)
def test_what_is_not_given_is_as_it_was_measured(
    given: dict[str, Any], keep: float, outliers: float | None, among: int, weighted: bool
) -> None:
    settings = FilterSettings.parse({"data": "d", "model": "m", **given})
    assert (settings.keep, settings.outliers, settings.among, settings.weighted) == (keep, outliers, among, weighted)
    # What a ledger has is the same run.
    again = FilterSettings.stored(settings.model_dump(mode="json"))
    assert again == settings
