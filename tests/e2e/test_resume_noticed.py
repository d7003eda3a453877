"""What a run notices of what was changed while it was stopped: services that compute otherwise, models that are gone or
are other ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from burnish import Client, Endpoints, PreconditionFailed
from burnish._types import ModelVersion
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.coordinator.book import RunBook
from burnish.coordinator.errors import Interrupted, StepFailed
from burnish.coordinator.ledger import Ledger
from burnish.coordinator.loop import RunOptions, finished, run_recipe
from burnish.coordinator.progress import StepProgress
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.steps.stage import version_detail
from burnish.testing import FakeServices
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import Watcher, digest_of_final, history, settings

SMALL = RunOptions(batch_size=5, max_in_flight=1)
METHODS = {
    scoring_pb2: ("ScoreSamples", "JudgeSamples"),
    embedding_pb2: ("EmbedSamples",),
    rewriting_pb2: ("RewriteSamples",),
}


class Stopper(Watcher):
    """Ends the run once a step has begun to make something, or is done."""

    def __init__(self, moment: tuple[int, str], *, done: bool = False) -> None:
        super().__init__()
        self.moment, self.done = moment, done

    def step_advanced(self, step: StepProgress) -> None:
        if not self.done and step.done and (step.round, step.name) == self.moment:
            raise Interrupted("here")

    def step_finished(self, step: StepProgress) -> None:
        if self.done and (step.round, step.name) == self.moment:
            raise Interrupted("here")


def computes(fakes: FakeServices, service: ModuleType, **how: str) -> None:
    """Has one of the services say from now on that it computes so."""

    def change(reply: Any) -> None:
        if type(reply).__module__ == service.__name__:
            for name, value in how.items():
                setattr(reply.model, name, value)

    for method in ("LoadModel", *METHODS[service]):
        fakes.change_reply(method, change)


@pytest.mark.parametrize(
    ("service", "step", "how", "said"),
    [
        (scoring_pb2, "score_pre", {"dtype": "bfloat16"}, r"scoring .*--engine fake --dtype float32 .*by the machine"),
        (scoring_pb2, "judge", {"engine": "vllm/0"}, r"scoring .*vllm, .*; expected fake, .*--dtype float32 as before"),
        (embedding_pb2, "embed", {"dtype": "float16"}, "embedding .*--engine fake --dtype float32"),
        (rewriting_pb2, "refine", {"dtype": "bfloat16"}, "rewriting .*--engine fake --dtype float32"),
    ],
)
def test_a_step_is_not_gone_on_with_by_a_service_that_computes_otherwise(
    fakes: FakeServices,
    client: Client,
    data: Path,
    tmp_path: Path,
    service: ModuleType,
    step: str,
    how: dict[str, str],
    said: str,
) -> None:
    out, asked = tmp_path / "out", METHODS[service]
    with pytest.raises(Interrupted):
        run_recipe(settings(data), client, out, options=SMALL, observer=Stopper((1, step)))
    before = [len(fakes.requests(method)) for method in asked]
    computes(fakes, service, **how)
    with pytest.raises(StepFailed, match=said):
        run_recipe(settings(data), client, out, options=SMALL)
    assert [len(fakes.requests(method)) for method in asked] == before
    fakes._record.changes.clear()
    run_recipe(settings(data), client, out, options=SMALL)


def test_nor_is_the_next_model_scored_in_another_number_format(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    """Both losses of a sample are compared with each other."""
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        run_recipe(settings(data), client, out, observer=Stopper((1, "score_pre"), done=True))
    computes(fakes, scoring_pb2, dtype="bfloat16")
    with pytest.raises(StepFailed, match="computes otherwise"):
        run_recipe(settings(data), client, out)
    with history(out) as h:
        assert h._ledger.select("SELECT count(DISTINCT model_digest) FROM score") == [(1,)]


def test_each_service_is_compared_with_itself(fakes: FakeServices, client: Client, data: Path, tmp_path: Path) -> None:
    computes(fakes, rewriting_pb2, engine="vllm/0.32.0", dtype="bfloat16")
    with pytest.raises(Interrupted):
        run_recipe(settings(data), client, tmp_path / "out", options=SMALL, observer=Stopper((1, "refine")))
    run_recipe(settings(data), client, tmp_path / "out", options=SMALL)


def test_another_version_of_the_engine_is_told_of_once(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run_recipe(settings(data), client, tmp_path / "out", options=SMALL, observer=Stopper((1, "score_pre")))
    computes(fakes, scoring_pb2, engine="fake/1")
    watcher = Watcher()
    run_recipe(settings(data), client, tmp_path / "out", observer=watcher)
    told = [note for note in watcher.notes if "service runs on" in note]
    assert len(told) == 1
    assert told[0].startswith("The scoring service runs on fake/1 now, and ran on fake/0 before.")


def test_what_another_run_of_the_ledger_measured_is_not_added_to_in_another_format(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "ledger.duckdb"
    run_recipe(settings(data, axes=["hard"]), client, tmp_path / "one", ledger=shared)
    computes(fakes, scoring_pb2, dtype="bfloat16")
    with pytest.raises(StepFailed, match="or another one of its ledger, began"):
        run_recipe(settings(data, axes=["hard"], seed=8), client, tmp_path / "two", ledger=shared)
    run_recipe(settings(data, axes=["hard"], seed=8, model="other"), client, tmp_path / "three", ledger=shared)


def test_versions_are_this_runs_in_order_and_of_others_only_those_of_the_same_weights(tmp_path: Path) -> None:
    def note(run_id: str, step: str, digest: str, engine: str, done: int = 1) -> None:
        book = RunBook(ledger, run_id)
        detail = {"model": version_detail(ModelVersion("uri", digest, engine, "float32", "0" * 16))}
        with book.transaction():
            book.begin_step(1, 0, step)
            book.plan_step(1, step, total=1, done=done, reused=0, detail=detail)

    with Ledger.open(tmp_path / "ledger.duckdb") as ledger:
        note("a", "judge", "same", "of a")
        note("a", "embed", "same", "of another service")
        note("a", "score_pre", "other", "of other weights")
        note("b", "score_post", "other", "first of b")
        note("b", "score_pre", "same", "second of b")
        note("b", "confidence", "same", "of b, that has found nothing yet", done=0)
        found = RunBook(ledger, "b").said_before(("score_pre", "score_post", "judge", "confidence"), "same")
    assert [one.engine for one in found] == ["first of b", "second of b", "of a"]


def test_the_last_model_is_made_again_where_it_is_gone(
    services: FakeEngineServices, data: Path, holdout: Path, tmp_path: Path
) -> None:
    class Killed(Watcher):
        def step_started(self, step: StepProgress) -> None:
            raise Interrupted("here")

    out, asked = tmp_path / "out", settings(data, holdout=str(holdout), model=str(services.model), axes=["hard"])
    with Client(Endpoints.at(services.address)) as client:
        first = run_recipe(asked, client, out)
        before = digest_of_final(out)
        shutil.rmtree(out / "models/round-2")
        assert finished(asked, out) is None
        watcher, killed = Watcher(), Killed()
        with pytest.raises(Interrupted):
            run_recipe(asked, client, out, observer=killed)
        assert finished(asked, out) is None, "it has no last model"
        again = run_recipe(asked, client, out, observer=watcher)
    assert any("the model is gone from" in note for note in killed.notes)
    assert [(step.round, step.name) for step in watcher.steps] == [(2, "train"), (2, "evaluate")]
    assert (out / "models/round-2").is_dir()
    assert first.final_model is not None
    assert again.final_model is not None
    assert (again.final_model.uri, again.final_model.eval_loss) == (first.final_model.uri, first.final_model.eval_loss)
    assert again.final_model.training_run != first.final_model.training_run
    assert finished(asked, out) is not None
    assert digest_of_final(out) == before


def test_of_several_models_of_the_same_data_one_that_is_there_is_taken(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path
) -> None:
    class Publisher(Watcher):
        """Has the files of a model there, as the training service would."""

        def step_finished(self, step: StepProgress) -> None:
            if step.name == "train":
                Path(fakes.requests("CreateRun")[-1].spec.output_uri).mkdir(parents=True, exist_ok=True)

    def made(name: str, eta: float) -> Path:
        """Runs it; returns the place of the model of what passed the filter, the same for all."""
        asked = ClearSettings(data=str(data), model="base", seed=7, eta=eta)
        summary = run_recipe(asked, client, tmp_path / name, observer=Publisher(), ledger=tmp_path / "ledger.duckdb")
        ids[name] = summary.run_id
        (model,) = [m for m in summary.models if (m.role, m.round) == ("trained", 1)]
        return Path(model.uri)

    ids: dict[str, str] = {}
    places = {"one": made("one", 0.5)}
    shutil.rmtree(places["one"])
    places["two"] = made("two", 0.6)
    assert places["one"] != places["two"]
    gone, there = sorted(places, key=ids.__getitem__)
    shutil.rmtree(places[gone], ignore_errors=True)
    places[there].mkdir(parents=True, exist_ok=True)
    assert made("three", 0.7) == places[there]


@pytest.mark.parametrize("selector", ["selector", ""])
@pytest.mark.parametrize("more", [{}, {"select_only": True}])
def test_another_selector_in_the_place_of_the_first_is_noticed(
    fakes: FakeServices, client: Client, data: Path, tmp_path: Path, selector: str, more: dict[str, Any]
) -> None:
    asked = MadsSettings(data=str(data), model="base", selector=selector, seed=7, calibration_size=20, **more)
    with pytest.raises(Interrupted):
        run_recipe(asked, client, tmp_path / "out", options=SMALL, observer=Stopper((1, "features")))
    place = selector or "base"
    (digest,) = {request.model.digest for request in fakes.requests("EmbedSamples")}
    assert digest == fakes._state.version(fakes.requests("EmbedSamples")[0].model).digest
    fakes._state.digests[place] = "sha256:" + "e" * 64
    with pytest.raises((PreconditionFailed, StepFailed), match=f"the digest of {place} is"):
        run_recipe(asked, client, tmp_path / "out", options=SMALL)
