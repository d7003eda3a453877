"""The SDK against the real services on the fake engine, started as a user's command starts them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from burnish import (
    Client,
    CoverageCandidate,
    CoverageOptimizer,
    CoverageSettings,
    FeatureRule,
    FeatureSettings,
    Hyperparameters,
    LocalServices,
    Message,
    ModelRef,
    NotFound,
    PreconditionFailed,
    ProjectionMethod,
    RewriteItem,
    Role,
    RunSpec,
    RunState,
    Sample,
    Sampling,
    Strategy,
    TokenSpan,
    Unsupported,
    UsageError,
)
from burnish_services.engine.fake import write_fake_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_fake_model(folder / "a", name="a", seed=1), write_fake_model(folder / "b", name="b", seed=2)


@pytest.fixture(scope="module")
def client(models: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    state = tmp_path_factory.mktemp("state")
    with (
        LocalServices(state_dir=state, engine="fake", model=models[0]) as services,
        Client(services.endpoints) as client,
    ):
        yield client


def samples(count: int) -> list[Sample]:
    return [
        Sample(f"s{i}", (Message(Role.USER, f"Tell me of the number {i}."), Message(Role.ASSISTANT, f"{i} is even.")))
        for i in range(count)
    ]


def test_scores_of_more_samples_than_one_request_takes(client: Client, models: tuple[Path, Path]) -> None:
    count = client.scoring.info().limits.max_items + 40
    batch = client.scoring.score(samples(count), model=models[0], return_tokens=True)
    assert [score.sample_id for score in batch.scores] == [f"s{i}" for i in range(count)]
    turn = batch.scores[-1].turns[0]
    assert turn.logprobs is not None
    assert -float(np.sum(turn.logprobs, dtype=np.float64)) == pytest.approx(turn.sum_nll, rel=1e-5)
    alone = client.scoring.score(samples(count)[-1:], model=models[0], return_tokens=True)
    assert alone.scores[0].mean_nll == batch.scores[-1].mean_nll


def test_each_call_is_served_by_the_model_it_names(client: Client, models: tuple[Path, Path]) -> None:
    one, two = (client.scoring.score(samples(3), model=model) for model in models)
    assert one.model.digest != two.model.digest
    assert one.scores[0].mean_nll != two.scores[0].mean_nll
    again = client.scoring.score(samples(3), model=one.model)
    assert [score.mean_nll for score in again.scores] == [score.mean_nll for score in one.scores]
    with pytest.raises(PreconditionFailed, match="MODEL_DIGEST_MISMATCH"):
        client.scoring.score(samples(1), model=ModelRef(str(models[0]), two.model.digest))
    with pytest.raises(NotFound, match="/nowhere"):
        client.scoring.score(samples(1), model="/nowhere")


def test_ratings(client: Client, models: tuple[Path, Path]) -> None:
    batch = client.scoring.judge(samples(20), model=models[1], sampling=Sampling(max_tokens=16, seed=3))
    ratings = [rating for judgment in batch.judgments for rating in judgment.ratings]
    assert len(ratings) == 20 * 6
    assert all(0 <= rating.value <= 10 for rating in ratings if rating.value is not None)
    assert all((rating.value is None) != rating.status.ok for rating in ratings)
    assert batch.prompt_digest == client.scoring.info().prompt_digests["judge"]


def test_vectors_and_neighbours(client: Client, models: tuple[Path, Path]) -> None:
    client.embedding.create_collection("real")
    twin = Sample("twin", samples(1)[0].messages)
    batch = client.embedding.embed([*samples(30), twin], model=models[0], collection="real", return_vectors=True)
    assert batch.num_stored == 31
    assert client.embedding.embed(samples(30), model=models[0], collection="real").num_stored == 0
    collection = client.embedding.get_collection("real")
    assert (collection.num_vectors, collection.model) == (31, batch.model)
    vector = batch.embeddings[0].vector
    assert vector is not None
    assert vector.shape == (collection.dimension,)
    statistics = client.embedding.neighbor_statistics("real", k=1).statistics
    assert {s.sample_id for s in statistics} == {"twin", *(f"s{i}" for i in range(30))}
    of_twin = next(s for s in statistics if s.sample_id == "twin")
    assert of_twin.neighbors[0].sample_id == "s0"
    assert of_twin.mean_cosine == pytest.approx(1.0, abs=1e-6)
    client.embedding.delete_collection("real")
    assert "real" not in {c.name for c in client.embedding.list_collections()}


def test_features_and_a_core_set(client: Client, models: tuple[Path, Path]) -> None:
    many = client.embedding.info().limits.max_items + 20
    assert client.embedding.create_calibration("usual").version == ""
    measured = client.embedding.measure(samples(many), "usual", model=models[0])
    assert all(one.num_tokens for one in measured.measurements)
    finished = client.embedding.finish_calibration("usual")
    assert (finished.num_samples, finished.model) == (many, measured.model)
    assert client.embedding.get_calibration("usual") == finished
    assert client.embedding.list_calibrations() == (finished,)
    features = FeatureSettings(calibration="usual", k=5)
    collection = client.embedding.create_collection("rich", source=TokenSpan.ALL, features=features)
    assert collection.features is not None
    assert (collection.features.rule, collection.features.k) == (FeatureRule.STANDARDIZED_TOP_K, 5)
    assert collection.features.calibration_version == finished.version
    client.embedding.embed(samples(40), model=models[0], collection="rich")
    found = client.embedding.select("rich", 10, return_witnesses=True, num_random_curves=2)
    assert (len(found.selected), len(found.witnesses), len(found.random_curves)) == (10, 30, 2)
    assert found.optimizer is CoverageOptimizer.LAZY
    best = client.embedding.select(
        "rich",
        3,
        [CoverageCandidate(f"s{n}", quality=n / 40) for n in range(40)],
        settings=CoverageSettings(quality_weight=1e4),
        selected_ids=["s39"],
    )
    assert [one.sample_id for one in best.selected] == ["s38", "s37", "s36"]
    picture = client.embedding.project("rich", ["s1", "s0"])
    assert picture.sample_ids == ("s0", "s1")
    assert picture.points.shape == (2, 2)
    assert picture.method is ProjectionMethod.PCA
    with pytest.raises(UsageError):
        client.embedding.select("rich", 1 << 40)
    client.embedding.delete_calibration("usual")
    assert client.embedding.list_calibrations() == ()


def test_rewrites(client: Client, models: tuple[Path, Path]) -> None:
    items = [RewriteItem(sample, tuple(samples(3)[1:])) for sample in samples(40)]
    batch = client.rewriting.rewrite(items, Strategy.DIVERSIFY, model=models[0], sampling=Sampling(seed=5))
    assert [rewrite.sample_id for rewrite in batch.rewrites] == [item.sample.id for item in items]
    accepted = [rewrite for rewrite in batch.rewrites if rewrite.status.ok]
    assert accepted
    for rewrite in accepted:
        assert rewrite.sample is not None
        assert rewrite.sample.response
        assert rewrite.attempts[-1].rejection == ""
    assert batch.prompt_version == client.rewriting.info().prompt_versions[Strategy.DIVERSIFY]


def test_a_run_and_the_model_it_makes(client: Client, models: tuple[Path, Path], tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    lines = [
        json.dumps({"id": s.id, "messages": [{"role": m.role, "content": m.content} for m in s.messages]})
        for s in samples(40)
    ]
    data.write_text("\n".join(lines) + "\n")
    spec = RunSpec(
        ModelRef(str(models[0])),
        str(data),
        output_uri=str(tmp_path / "out"),
        hyperparameters=Hyperparameters(num_epochs=2, seed=0),
    )
    run = client.training.create(spec, "sdk-real")
    events = list(run.watch())
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert events[-1].run.state is RunState.SUCCEEDED
    result = run.result()
    assert result.num_samples == 40
    assert client.training.create(spec, "sdk-real").run_id == run.run_id
    assert client.training.get(run.run_id).snapshot.spec == spec
    scored = client.scoring.score(samples(3), model=result.model)
    assert scored.model.digest == result.model.digest


def test_a_role_that_is_not_there(models: tuple[Path, Path], tmp_path: Path) -> None:
    with (
        LocalServices(["scoring"], state_dir=tmp_path, engine="fake", model=models[0]) as services,
        Client(services.endpoints.scoring) as client,
        pytest.raises(Unsupported, match="Either the server there runs other roles"),
    ):
        client.training.info()
