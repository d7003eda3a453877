"""The maps in the reports of Middo and CLEAR: what is projected and drawn, and that no run ends for want of a map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from burnish import Client, PreconditionFailed, ProjectionMethod
from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish.cli.recipe_options import WORK, given
from burnish.coordinator.book import RunBook
from burnish.coordinator.errors import Interrupted
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.loop import RunOptions, resume, run_recipe
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.steps import project
from burnish.report.collect import collect
from burnish.report.data import ClearRound, Map, MiddoRound
from burnish.report.render import render
from burnish.testing import FakeServices
from burnish.testing._state import failed
from tests.e2e.support import Watcher, alpaca, digest_of_final, history, run, settings, write_jsonl


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", alpaca(40, duplicates=3))


def reported(out: Path) -> tuple[list[Map | None], str]:
    """The maps of all rounds, and the page."""
    with history(out) as h:
        report = collect(h)
    return [one.map for one in report.rounds if isinstance(one, MiddoRound | ClearRound)], render(report)


def sizes(picture: Map) -> dict[str, int]:
    return {group: len(points) for group, points in picture.points.items()}


class StopsAt(Watcher):
    """Stops a run where it takes a step."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def step_started(self, step: Any) -> None:
        if step.name == self.name:
            raise Interrupted("here")


# ---- Middo


def test_every_round_of_middo_is_drawn_by_what_was_decided(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(client, out, data, rounds=2, m_loss=0.3, m_quality=0.3, m_sparse=0.3)
    asked = fakes.requests("ProjectSamples")
    stored: dict[str, set[str]] = {}
    for sent in fakes.requests("EmbedSamples"):
        stored.setdefault(sent.collection, set()).update(sample.id for sample in sent.samples)
    embedded = [stored[request.collection] for request in asked]
    assert [set(request.sample_ids) for request in asked] == embedded, "each round's set, once"
    assert {request.method for request in asked} == {pb.PROJECTION_METHOD_PCA}
    maps, page = reported(out)
    with history(out) as h:
        for number, picture in enumerate(maps, start=1):
            assert picture is not None
            decided = Counter(d.actions[0] if len(d.actions) == 1 else "several" for d in h.decisions(number))
            assert sizes(picture) == decided
            assert {"keep", "simplify", "improve", "diversify", "several"} == set(decided)
            distinct = len({row.sample_hash for row in h.rows(number)})
            assert len(h.places(number)) == picture.num_placed == picture.num_samples == distinct
    assert page.count("<h3>Map</h3>") == 2
    assert page.count("<circle") == sum(sum(sizes(one).values()) for one in maps if one)
    assert "first two principal axes: 50% and 25% of the variance" in page


def test_without_vectors_there_is_no_map(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    run(client, tmp_path / "out", data, axes=["hard", "low_quality"])
    assert not fakes.requests("ProjectSamples")
    maps, page = reported(tmp_path / "out")
    assert maps == [None]
    assert "<h3>Map</h3>" not in page


def test_where_nothing_could_be_embedded_nothing_is_asked_for(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    def fail(reply: Any) -> None:
        for one in reply.embeddings:
            one.status.CopyFrom(failed("TOO_LONG"))

    fakes.change_reply("EmbedSamples", fail)
    run(client, tmp_path / "out", data)
    assert not fakes.requests("ProjectSamples"), "no ids would mean the whole collection"
    assert reported(tmp_path / "out")[0] == [None]


def test_killed_after_the_places_were_written_nothing_is_projected_again(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = RunBook.end_step

    def die(self: RunBook, round_number: int, name: str, state: str, seconds: float) -> None:
        if name == "project":
            raise Interrupted("here")
        ended(self, round_number, name, state, seconds)

    monkeypatch.setattr(RunBook, "end_step", die)
    with pytest.raises(Interrupted):
        run(client, tmp_path / "out", data)
    monkeypatch.undo()
    with history(tmp_path / "out") as h:
        before = h.places(1)
        (step,) = [s for s in h.steps() if s.name == "project"]
    assert (len(before), step.state) == (40, "running")
    run(client, tmp_path / "out", data)
    assert len(fakes.requests("ProjectSamples")) == 1
    with history(tmp_path / "out") as h:
        assert h.places(1) == before
        (step,) = [s for s in h.steps() if s.name == "project"]
    assert (step.state, step.done, step.total) == ("done", 40, 40)
    picture = reported(tmp_path / "out")[0][0]
    assert picture is not None
    assert picture.shares == (0.5, 0.25)


def test_a_run_of_a_release_without_maps_is_reported_and_stays_as_it_is(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(client, out, data)
    with Ledger.open(out / "ledger.duckdb") as ledger, ledger.transaction():
        ledger.execute("DELETE FROM place", ())
        ledger.execute("DELETE FROM step WHERE name = 'project'", ())
        ledger.execute('UPDATE run SET config = json_merge_patch(config, \'{"options": {"map": null}}\')', ())
    maps, page = reported(out)
    assert maps == [None]
    assert "<h3>Map</h3>" not in page
    calls = len(fakes.requests("ProjectSamples"))
    resume(out, client)
    assert len(fakes.requests("ProjectSamples")) == calls, "the round is done"


def test_vectors_that_are_gone_cost_the_map_and_nothing_else(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    run(client, tmp_path / "whole", data)
    with pytest.raises(Interrupted):
        run_recipe(settings(data), client, tmp_path / "out", observer=StopsAt("project"))
    fakes._state.collections.clear()
    watcher = Watcher()
    run_recipe(settings(data), client, tmp_path / "out", observer=watcher)
    assert any("Round 1 has no map, for the service no longer holds its vectors" in note for note in watcher.notes)
    assert reported(tmp_path / "out")[0] == [None]
    assert digest_of_final(tmp_path / "out") == digest_of_final(tmp_path / "whole")


def test_what_else_the_service_refuses_ends_the_run_which_goes_on_later(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    fakes.fail_next("ProjectSamples", grpc.StatusCode.FAILED_PRECONDITION, "made up", reason="OTHER_WEIGHTS")
    with pytest.raises(PreconditionFailed, match="made up"):
        run(client, tmp_path / "out", data)
    run(client, tmp_path / "out", data)
    assert reported(tmp_path / "out")[0] != [None]


# ---- by UMAP


def test_how_a_map_is_drawn_is_an_option_that_changes_nothing_else(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    options = RunOptions(**given(WORK, {"map": ProjectionMethod.UMAP}))
    with pytest.raises(Interrupted):
        run_recipe(settings(data), client, tmp_path / "umap", observer=StopsAt("project"))
    first = run_recipe(settings(data), client, tmp_path / "umap", options=options)
    assert [request.method for request in fakes.requests("ProjectSamples")] == [pb.PROJECTION_METHOD_UMAP]
    second = run(client, tmp_path / "pca", data)
    assert first.run_id == second.run_id
    assert digest_of_final(tmp_path / "umap") == digest_of_final(tmp_path / "pca")
    assert "The set by UMAP" in reported(tmp_path / "umap")[1]
    assert "The set by UMAP" not in reported(tmp_path / "pca")[1]


def test_a_service_without_umap_is_asked_for_pca(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    refused = grpc.StatusCode.FAILED_PRECONDITION
    fakes.fail_next("ProjectSamples", refused, "pip install umap-learn", reason="UMAP_NOT_INSTALLED")
    watcher = Watcher()
    run_recipe(settings(data), client, tmp_path / "out", options=RunOptions(map="umap"), observer=watcher)
    (note,) = [note for note in watcher.notes if "drawn by PCA instead of UMAP" in note]
    assert "pip install umap-learn" in note
    picture = reported(tmp_path / "out")[0][0]
    assert picture is not None
    assert picture.method == "pca"


def test_of_very_many_samples_a_part_is_placed(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "MOST_PLACED", 15)
    run(client, tmp_path / "out", data)
    (request,) = fakes.requests("ProjectSamples")
    assert len(request.sample_ids) == 15
    maps, page = reported(tmp_path / "out")
    assert maps[0] is not None
    assert (maps[0].num_placed, maps[0].num_samples) == (15, 40)
    assert "drawn: 15 of 40 samples" in page


# ---- CLEAR


def curated(client: Client, data: Path, out: Path, watcher: Watcher | None = None, **more: Any) -> None:
    chosen = ClearSettings(data=(str(data),), model="base", seed=7, eta=0.6, **more)
    run_recipe(chosen, client, out, options=RunOptions(batch_size=10), observer=watcher)


def test_clear_is_drawn_where_it_holds_the_sets_size(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    out, watcher = tmp_path / "out", Watcher()
    curated(client, data, out, watcher, hold_size=20)
    (request,) = fakes.requests("ProjectSamples")
    steps = [s.name for s in watcher.steps]
    assert steps[steps.index("features") :][:3] == ["features", "project", "hold"]
    with history(out) as h:
        decided = h.decisions(1)
        kept = {one.row_id: one.kept for one in h.held(1)}
        after = {d.row_id: d.hints[0] if d.actions[0] == "correct" else d.sample_hash for d in decided}
    assert set(request.sample_ids) == {after[row_id] for row_id in kept}
    going_on = [d for d in decided if d.actions[0] != "drop"]
    expected = Counter(d.actions[0] if kept[d.row_id] else "left_out" for d in going_on)
    maps, page = reported(out)
    assert maps[0] is not None
    assert sizes(maps[0]) == expected
    assert {"keep", "correct", "left_out"} == set(expected)
    assert "left out to hold the set&#39;s size" in page
    assert "kept without a confidence</p>" not in page, "what is not there has no key"
    assert "filter dropped is not read for this" in page


def test_clear_without_vectors_has_no_map(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    curated(client, data, tmp_path / "free", filter_only=True)
    curated(client, data, tmp_path / "small", filter_only=True, hold_size="100%")
    assert not fakes.requests("ProjectSamples")
    assert [reported(tmp_path / name)[0] for name in ("free", "small")] == [[None], [None]]


@pytest.mark.parametrize("moment", ["features", "project", "hold", "assemble"])
def test_clear_stopped_around_its_map_makes_the_same(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, moment: str
) -> None:
    with pytest.raises(Interrupted):
        curated(client, data, tmp_path / "out", StopsAt(moment), filter_only=True, hold_size=10)
    curated(client, data, tmp_path / "out", filter_only=True, hold_size=10)
    assert len(fakes.requests("ProjectSamples")) == 1
    curated(client, data, tmp_path / "whole", filter_only=True, hold_size=10)
    assert digest_of_final(tmp_path / "out") == digest_of_final(tmp_path / "whole")
    assert reported(tmp_path / "out")[0] == reported(tmp_path / "whole")[0] != [None]
