"""The whole loop through the real services on the fake engine, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import burnish
from burnish import Client
from burnish.coordinator.loop import run_recipe
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.report.collect import collect
from burnish.report.render import render
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import Watcher, history

BUNDLED = Path(burnish.__file__).parent / "data"


def bundled(services: FakeEngineServices, **more: object) -> MiddoSettings:
    return MiddoSettings.parse(
        {
            "data": str(BUNDLED / "demo.jsonl"),
            "holdout": str(BUNDLED / "demo_holdout.jsonl"),
            "model": str(services.model),
            "rounds": 2,
            **more,
        }
    )


def test_two_rounds_on_the_bundled_data(services: FakeEngineServices, tmp_path: Path) -> None:
    out, watcher = tmp_path / "out", Watcher()
    with Client(services.address) as client:
        summary = run_recipe(bundled(services), client, out, observer=watcher)
    assert [m.role for m in summary.models] == ["base", "trained", "trained", "trained"]
    assert len({m.digest for m in summary.models}) == 4
    assert all(m.eval_loss for m in summary.models)
    source = [json.loads(line) for line in (BUNDLED / "demo.jsonl").read_text(encoding="utf-8").splitlines()]
    final = [json.loads(line) for line in (out / "final/data.jsonl").read_text(encoding="utf-8").splitlines()]
    origins = [json.loads(line) for line in (out / "final/provenance.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(final) == len(origins) == summary.rows_out > summary.rows_in == len(source)
    for before, after, origin in zip(source, final, origins, strict=False):
        assert before["id"] == after["id"] == origin["row_id"]
        assert (before == after) == (origin["origin"] == "source")
    assert {o["origin"] for o in origins} == {"source", "simplify", "improve", "diversify"}
    assert all(o["reasons"] for o in origins if o["origin"] != "source")
    with history(out) as h:
        for number in (1, 2):
            selected = [d for d in h.decisions(number) if d.axes]
            assert {axis for d in selected for axis in d.axes} == {"hard", "sparse", "low_quality"}
            accepted = [r for r in h.rewrites(number) if r.after is not None]
            assert len(accepted) > 0.8 * len(h.rewrites(number))
        assert {f.reason for f in h.failures(1)} == {"UNPARSEABLE"}
        assert [len(h.places(d.round)) for d in h.datasets()] == [
            *(len({row.sample_hash for row in h.rows(number)}) for number in (1, 2)),
            0,
        ]
        report = collect(h)
    page = render(report)
    assert page.count("<h3>Map</h3>") == 2
    assert page.count("<circle") == sum(one.num_rows for one in report.rounds), "every row of every round"


def test_a_base_model_that_is_none_is_refused_before_anything_is_trained(
    services: FakeEngineServices, tmp_path: Path
) -> None:
    with Client(services.address) as client, pytest.raises(burnish.BurnishError, match="nowhere"):
        run_recipe(bundled(services, model=str(tmp_path / "nowhere")), client, tmp_path / "out")
    with history(tmp_path / "out") as h:
        assert [s.name for s in h.steps()] == ["read"]


def test_a_model_that_changed_on_disk_ends_the_run_with_advice(services: FakeEngineServices, tmp_path: Path) -> None:
    from burnish_services.engine.fake import write_fake_model

    class Meddler(Watcher):
        def step_finished(self, step: object) -> None:
            super().step_finished(step)  # type: ignore[arg-type]
            if self.steps[-1].name == "train":
                write_fake_model(model, name="another", seed=2, skill=0.9)

    model = tmp_path / "model"
    write_fake_model(model, name="mine", seed=5, skill=0.1)
    with Client(services.address) as client, pytest.raises(burnish.BurnishError) as error:
        run_recipe(bundled(services, model=str(model)), client, tmp_path / "out", observer=Meddler())
    assert "A model is not what it was when this run began" in str(error.value)
