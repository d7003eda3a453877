"""Features, calibrations and selections over real gRPC on the fake engine."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

import grpc
import grpc.aio
import numpy as np
import pytest
from google.rpc import code_pb2

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish.api.embedding.v1 import embedding_pb2_grpc
from burnish_services.embedding import convert_selection, projecting
from burnish_services.embedding.coverage import binarise
from burnish_services.embedding.selecting import ObjectiveKind, Optimizer, SelectionSettings
from burnish_services.engine.base import Activations, EngineSettings, ScoreRequest
from burnish_services.engine.chat import tokenize_sample
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.errors import InvalidRequest
from burnish_services.runtime.server import running
from tests.service.support import failure_of, sample

TOPICS = ["colour paint brush canvas", "river water fish boat", "engine wheel road driver", "bread flour oven yeast"]


def texts(number: int) -> list[common_pb2.Sample]:
    """Samples on a few topics, each of its own words."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(number):
        words = TOPICS[index % len(TOPICS)].split()
        answer = " ".join(rng.choice(words, 6).tolist() + [f"word{rng.integers(400)}" for _ in range(8)])
        made.append(sample(f"{index:03}", f"Tell me about {words[0]}.", answer))
    return made


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> ServerSettings:
    return ServerSettings(
        roles=("embedding",), engine="fake", model=str(model), state_dir=tmp_path / "state", max_model_len=256
    )


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> embedding_pb2_grpc.EmbeddingServiceAsyncStub:
    return embedding_pb2_grpc.EmbeddingServiceStub(channel)


async def calibrate(stub, samples, name: str = "usual", **settings) -> pb.Calibration:
    wanted = pb.Calibration(name=name, **settings)
    await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=wanted))
    await stub.MeasureSamples(pb.MeasureSamplesRequest(calibration=name, samples=samples))
    return (await stub.FinishCalibration(pb.FinishCalibrationRequest(name=name))).calibration


async def create(stub, name: str = "rich", source=pb.TEXT_SOURCE_ALL, **features) -> pb.Collection:
    wanted = pb.Collection(name=name, source=source, features=pb.FeatureSettings(**features) if features else None)
    return (await stub.CreateCollection(pb.CreateCollectionRequest(collection=wanted))).collection


async def embed(stub, samples, collection: str = "rich") -> pb.EmbedSamplesResponse:
    return await stub.EmbedSamples(pb.EmbedSamplesRequest(collection=collection, samples=samples))


async def select(stub, budget: int, collection: str = "rich", ids=None, **fields) -> pb.SelectCoverageResponse:
    candidates = [pb.CoverageCandidate(sample_id=item) for item in ids or ()]
    fields.setdefault("candidates", candidates)
    return await stub.SelectCoverage(pb.SelectCoverageRequest(collection=collection, budget=budget, **fields))


def ids_of(reply: pb.SelectCoverageResponse) -> list[str]:
    return [one.sample_id for one in reply.selected]


async def filled(stub, number: int = 60) -> list[common_pb2.Sample]:
    samples = texts(number)
    await calibrate(stub, samples[:40])
    await create(stub, calibration="usual")
    reply = await embed(stub, samples)
    assert reply.num_stored == number
    return samples


async def test_a_calibration_is_created_measured_finished_listed_and_deleted(stub) -> None:
    request = pb.CreateCalibrationRequest(calibration=pb.Calibration(name="usual", length_boundaries=[50]))
    created = (await stub.CreateCalibration(request)).calibration
    assert created.activations == pb.ActivationSettings(
        source=pb.TEXT_SOURCE_RESPONSE, pooling=pb.ACTIVATION_POOLING_MAX, max_tokens=1024
    )
    assert (await stub.CreateCalibration(request)).calibration == created
    samples = [*texts(20), *(sample(f"short{index}", "Why?", f"Because of it {index}.") for index in range(3))]
    first = await stub.MeasureSamples(pb.MeasureSamplesRequest(calibration="usual", samples=samples[:15]))
    again = await stub.MeasureSamples(pb.MeasureSamplesRequest(calibration="usual", samples=samples[10:]))
    assert all(one.num_tokens >= 4 for one in first.measurements)
    assert [one.num_tokens == 0 for one in again.measurements] == [True] * 5 + [False] * 8
    found = (await stub.GetCalibration(pb.GetCalibrationRequest(name="usual"))).calibration
    assert (found.num_samples, found.num_layers, found.num_neurons, found.version) == (23, 4, 64, "")
    assert found.model == first.model
    finished = [(await stub.FinishCalibration(pb.FinishCalibrationRequest(name="usual"))).calibration for _ in "ab"]
    assert finished[0] == finished[1]
    assert len(finished[0].version) == 16
    assert finished[0].num_samples == 23
    listed = await stub.ListCalibrations(pb.ListCalibrationsRequest())
    assert list(listed.calibrations) == [finished[0]]
    assert not (await stub.ListCollections(pb.ListCollectionsRequest())).collections
    for _ in range(2):
        await stub.DeleteCalibration(pb.DeleteCalibrationRequest(name="usual"))
    failure = await failure_of(stub.GetCalibration(pb.GetCalibrationRequest(name="usual")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "CALIBRATION_NOT_FOUND")


async def test_a_calibration_does_not_depend_on_how_its_samples_were_sent(stub) -> None:
    samples = texts(30)
    whole = await calibrate(stub, samples, "whole")
    await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=pb.Calibration(name="parts")))
    for part in (samples[20:], samples[:7], samples[5:22]):
        await stub.MeasureSamples(pb.MeasureSamplesRequest(calibration="parts", samples=part))
    parts = (await stub.FinishCalibration(pb.FinishCalibrationRequest(name="parts"))).calibration
    assert parts.num_samples == whole.num_samples
    for calibration in ("whole", "parts"):
        await create(stub, calibration, calibration=calibration)
        await embed(stub, samples, calibration)
    assert ids_of(await select(stub, 10, "whole")) == ids_of(await select(stub, 10, "parts"))


async def test_lengths_told_apart_elsewhere_make_another_version(stub) -> None:
    samples = [*texts(10), *(sample(f"short{index}", "Why?", f"Because of it {index}.") for index in range(3))]
    # No sample has from 50 to 52 tokens, so that the numbers are the same.
    versions = [(await calibrate(stub, samples, f"at{at}", length_boundaries=[at])).version for at in (50, 51, 52)]
    assert len(set(versions)) == 3


async def test_samples_measured_twice_at_the_same_time_count_once(stub) -> None:
    samples = texts(30)
    await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=pb.Calibration(name="usual")))
    request = pb.MeasureSamplesRequest(calibration="usual", samples=samples)
    await asyncio.gather(*(stub.MeasureSamples(request) for _ in range(5)))
    finished = (await stub.FinishCalibration(pb.FinishCalibrationRequest(name="usual"))).calibration
    assert finished.num_samples == 30
    again = await calibrate(stub, samples, "again")
    assert again.version == finished.version


def test_a_reply_that_might_not_fit_is_refused_at_once() -> None:
    ids = ["x" * 200] * 300_000
    fits = partial(convert_selection.check_reply_fits, ids, max_bytes=64 << 20)
    fits(0, SelectionSettings(200_000))
    with pytest.raises(InvalidRequest, match="300000 samples and 0 witnesses"):
        fits(0, SelectionSettings(300_000))
    with pytest.raises(InvalidRequest, match="100000 samples and 200000 witnesses"):
        fits(0, SelectionSettings(100_000, with_witnesses=True))
    fits(250_000, SelectionSettings(300_000, with_witnesses=True))


async def test_features_are_those_that_the_activations_make(stub, model: Path) -> None:
    """By hand: pooled activations of the response, standardised by all samples' moments, the top 8 of each layer."""
    samples = texts(12)
    await calibrate(stub, samples)
    collection = await create(stub, calibration="usual")
    assert collection.features.calibration_version
    await embed(stub, samples)
    engine = create_engine("fake", EngineSettings(str(model), max_model_len=256))
    await engine.start()
    requests = []
    for one in samples:
        roles = {common_pb2.ROLE_USER: "user", common_pb2.ROLE_ASSISTANT: "assistant"}
        chat = tokenize_sample(engine.tokenizer, [ChatMessage(roles[m.role], m.content) for m in one.messages])
        (turn,) = chat.turns
        requests.append(ScoreRequest(chat.ids, len(chat.ids), activations=Activations([(turn.start, turn.end)])))
    pooled = np.stack([scores.activations for scores in await engine.score(requests)])  # type: ignore[union-attr]
    mean, std = pooled.mean(axis=0, dtype=np.float64), pooled.std(axis=0, dtype=np.float64)
    active = [set() for _ in samples]
    for row, values in enumerate(pooled):
        scores = binarise.standardise(values, mean, std)
        for layer in range(4):
            active[row] |= {(layer, neuron) for neuron in np.argsort(-scores[layer], kind="stable")[:8].tolist()}
    # Greedy log-coverage, in plain words.
    counts: dict[tuple[int, int], int] = {}
    expected: list[str] = []
    while len(expected) < len(samples):
        gains = {
            one.id: sum(np.log((counts.get(f, 0) + 2) / (counts.get(f, 0) + 1)) for f in active[row])
            for row, one in enumerate(samples)
            if one.id not in expected
        }
        best = max(gains.values())
        pick = min(item for item, gain in gains.items() if gain > best - 1e-5)
        expected.append(pick)
        for feature in active[int(pick)]:
            counts[feature] = counts.get(feature, 0) + 1
    reply = await select(stub, len(samples))
    assert ids_of(reply) == expected
    assert reply.statistics.num_features == len(counts)
    assert reply.curve.value[-1] == pytest.approx(sum(np.log1p(list(counts.values()))), rel=1e-5)


async def test_a_selection_is_a_ranking_with_its_curve_and_witnesses(stub) -> None:
    samples = await filled(stub)
    whole = await select(stub, 100, num_random_curves=3, return_witnesses=True)
    assert sorted(ids_of(whole)) == [one.id for one in samples]
    assert not whole.witnesses
    part = await select(stub, 9, num_random_curves=3, return_witnesses=True, seed=5)
    assert ids_of(part) == ids_of(whole)[:9]
    assert part == await select(stub, 9, num_random_curves=3, return_witnesses=True, seed=5)
    assert part.optimizer == pb.COVERAGE_OPTIMIZER_LAZY
    gains = [one.gain for one in part.selected]
    assert gains == sorted(gains, reverse=True)
    assert list(part.curve.num_selected) == list(range(10))
    np.testing.assert_allclose(np.diff(part.curve.value), gains, rtol=1e-5)
    assert len(part.random_curves) == 3
    assert all(curve.value[-1] < part.curve.value[-1] for curve in part.random_curves)
    dropped = sorted({one.id for one in samples} - set(ids_of(part)))
    assert [one.sample_id for one in part.witnesses] == dropped
    assert all(one.nearest_id in ids_of(part) and -1 <= one.cosine <= 1 for one in part.witnesses)
    assert part.statistics.num_candidates == 60
    assert -1 <= part.statistics.length_correlation <= 1
    assert 0 < part.statistics.hub_share < 1


async def test_a_selection_goes_on_from_what_was_selected_before(stub) -> None:
    await filled(stub)
    ranking = ids_of(await select(stub, 20))
    assert ids_of(await select(stub, 12, selected_ids=ranking[:8])) == ranking[8:]
    rest = await select(stub, 12, ids=[*ranking, "059"], selected_ids=ranking[:8])
    assert set(ids_of(rest)) <= set(ranking[8:]) | {"059"}
    assert rest.statistics.num_candidates == len({*ranking[8:], "059"})


async def test_groups_keep_to_their_budgets_and_quality_counts(stub) -> None:
    samples = await filled(stub)
    candidates = [
        pb.CoverageCandidate(sample_id=one.id, group="even" if index % 2 == 0 else "odd", quality=index / 60)
        for index, one in enumerate(samples)
    ]
    reply = await select(stub, 20, candidates=candidates, group_budgets={"even": 3, "nobody": 9})
    assert len(reply.selected) == 20
    assert sum(int(item) % 2 == 0 for item in ids_of(reply)) == 3
    best = await select(stub, 5, candidates=candidates, quality_weight=1000.0)
    assert ids_of(best) == ["059", "058", "057", "056", "055"]
    filtered = await select(
        stub, 60, candidates=candidates, objective=pb.COVERAGE_OBJECTIVE_REPRESENTATION_FILTER, threshold=0.9
    )
    assert 1 < len(filtered.selected) < 60
    assert ids_of(filtered)[0] == "059"
    assert not filtered.HasField("curve")


@pytest.mark.parametrize("objective", [number for number in pb.CoverageObjective.values() if number])
async def test_every_objective_selects(stub, objective: int) -> None:
    await filled(stub)
    reply = await select(stub, 10, objective=objective, return_witnesses=True)
    if objective == pb.COVERAGE_OBJECTIVE_REPRESENTATION_FILTER:
        assert 4 <= len(set(ids_of(reply))) <= 10
    else:
        assert len(set(ids_of(reply))) == 10
    assert len(reply.witnesses) == 60 - len(reply.selected)
    # The topics are told apart by anything that looks for variety.
    assert len({int(item) % len(TOPICS) for item in ids_of(reply)}) >= 2


@pytest.mark.parametrize("optimizer", [number for number in pb.CoverageOptimizer.values() if number])
async def test_every_optimizer_comes_near_the_best(stub, optimizer: int) -> None:
    await filled(stub)
    naive = await select(stub, 15, optimizer=pb.COVERAGE_OPTIMIZER_NAIVE)
    reply = await select(stub, 15, optimizer=optimizer, num_partitions=3, epsilon=0.01)
    assert reply.optimizer == optimizer
    assert reply.curve.value[-1] >= 0.95 * naive.curve.value[-1]
    if optimizer == pb.COVERAGE_OPTIMIZER_LAZY:
        assert ids_of(reply) == ids_of(naive)


@pytest.mark.parametrize(
    ("rule", "more"),
    [
        (pb.FEATURE_RULE_TOP_K, {"k": 3}),
        (pb.FEATURE_RULE_ABOVE_ZERO, {"activations": pb.ActivationSettings(max_tokens=512)}),
        (pb.FEATURE_RULE_MIN_MAX, {"threshold": 0.5}),
        (pb.FEATURE_RULE_SECTIONS, {"num_sections": 4, "calibration": "usual"}),
        (pb.FEATURE_RULE_STANDARDIZED_TOP_K, {"k": 5, "calibration": "usual"}),
    ],
    ids=["top-k", "above-zero", "min-max", "sections", "standardised"],
)
async def test_every_rule_makes_features(stub, rule: int, more: dict) -> None:
    samples = texts(30)
    await calibrate(stub, samples)
    collection = await create(stub, rule=rule, **more)
    assert collection.features.rule == rule
    is_signed = collection.features.activations.pooling == pb.ACTIVATION_POOLING_MAX_SIGNED
    assert is_signed == (rule == pb.FEATURE_RULE_ABOVE_ZERO)
    await embed(stub, samples)
    found = (await stub.GetCollection(pb.GetCollectionRequest(name="rich"))).collection
    assert found.num_features == 256 * (4 if rule == pb.FEATURE_RULE_SECTIONS else 1)
    reply = await select(stub, 10, weighting=pb.FEATURE_WEIGHTING_IDF)
    assert len(reply.selected) == 10
    assert 0 < reply.statistics.num_features <= found.num_features


async def test_a_collection_without_features_is_covered_by_its_vectors(stub) -> None:
    await create(stub)
    await embed(stub, texts(30))
    reply = await select(stub, 8)
    assert len(reply.selected) == 8
    assert reply.statistics.num_features == 0
    failure = await failure_of(select(stub, 8, objective=pb.COVERAGE_OBJECTIVE_LOG))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_FEATURES")


async def test_one_sample_can_be_selected_and_none_from_nothing(stub) -> None:
    await create(stub)
    assert not (await select(stub, 5)).selected
    await embed(stub, texts(1))
    assert ids_of(await select(stub, 5, return_witnesses=True)) == ["000"]


async def test_where_groups_have_no_room_nothing_is_selected_and_nobody_stands_for_anybody(stub) -> None:
    await create(stub)
    await embed(stub, texts(3))
    candidates = [pb.CoverageCandidate(sample_id="000", group="full")]
    reply = await select(stub, 1, candidates=candidates, group_budgets={"full": 0}, return_witnesses=True)
    assert not reply.selected
    assert not reply.witnesses


async def test_conversations_cut_for_their_features_are_stored_like_others(stub) -> None:
    long = [sample(f"long{n}", "Why?", f"number {n} " + "because " * 60) for n in range(3)]
    await create(stub, rule=pb.FEATURE_RULE_TOP_K, activations=pb.ActivationSettings(max_tokens=50))
    first, again = [await embed(stub, long) for _ in range(2)]
    assert (first.num_stored, again.num_stored) == (3, 0)
    assert [(one.num_tokens, one.truncated) for one in first.embeddings] == [(50, True)] * 3
    assert first.embeddings == again.embeddings


async def test_samples_are_placed_on_a_plane(stub) -> None:
    samples = await filled(stub)
    reply = await stub.ProjectSamples(pb.ProjectSamplesRequest(collection="rich"))
    points = np.frombuffer(reply.points, "<f4").reshape(-1, 2)
    assert list(reply.sample_ids) == [one.id for one in samples]
    assert points.shape == (60, 2)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-5)
    assert 0 < reply.variance_shares[1] <= reply.variance_shares[0] < 1
    assert reply.method == pb.PROJECTION_METHOD_PCA
    some = await stub.ProjectSamples(pb.ProjectSamplesRequest(collection="rich", sample_ids=["003", "001", "003"]))
    assert list(some.sample_ids) == ["001", "003"]
    failure = await failure_of(stub.ProjectSamples(pb.ProjectSamplesRequest(collection="rich", sample_ids=["x"])))
    assert failure.reason == "SAMPLE_NOT_EMBEDDED"


async def test_a_plane_by_umap_is_refused_where_it_cannot_be_had(stub, monkeypatch: pytest.MonkeyPatch) -> None:
    await filled(stub)
    by_umap = pb.ProjectSamplesRequest(collection="rich", method=pb.PROJECTION_METHOD_UMAP)
    monkeypatch.setitem(sys.modules, "umap", None)
    failure = await failure_of(stub.ProjectSamples(by_umap))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UMAP_NOT_INSTALLED")
    assert "pip install umap-learn" in failure.message
    monkeypatch.setattr(projecting, "MOST_BY_UMAP", 50)
    for request, reason in (
        (by_umap, "TOO_MANY_SAMPLES"),
        (pb.ProjectSamplesRequest(collection="rich", method=7), "BAD_METHOD"),
    ):
        failure = await failure_of(stub.ProjectSamples(request))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    few = pb.ProjectSamplesRequest(collection="rich", method=pb.PROJECTION_METHOD_UMAP, sample_ids=["001"] * 60)
    assert (await failure_of(stub.ProjectSamples(few))).reason == "UMAP_NOT_INSTALLED", "repeated ids count once"


@pytest.mark.slow
async def test_samples_are_placed_by_umap(stub) -> None:
    pytest.importorskip("umap")
    samples = await filled(stub)
    request = pb.ProjectSamplesRequest(collection="rich", method=pb.PROJECTION_METHOD_UMAP)
    replies = [await stub.ProjectSamples(request) for _ in "ab"]
    assert replies[0] == replies[1]
    assert replies[0].method == pb.PROJECTION_METHOD_UMAP
    assert list(replies[0].sample_ids) == [one.id for one in samples]
    points = np.frombuffer(replies[0].points, "<f4").reshape(-1, 2)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-3)
    assert list(replies[0].variance_shares) == [0, 0]


async def test_what_is_stored_is_read_again_only_where_it_changed(stub) -> None:
    samples = await filled(stub, 20)
    assert (await embed(stub, samples)).num_stored == 0
    before = ids_of(await select(stub, 20))
    samples[3].messages[1].content = "quite another answer with other words in it"
    reply = await embed(stub, samples)
    assert reply.num_stored == 1
    assert sorted(ids_of(await select(stub, 20))) == sorted(before)


async def test_other_weights_need_a_calibration_of_their_own(stub, model: Path, tmp_path: Path) -> None:
    samples = texts(10)
    await calibrate(stub, samples)
    await create(stub, calibration="usual")
    first = common_pb2.ModelRef(uri=str(model))
    other = common_pb2.ModelRef(uri=str(write_fake_model(tmp_path / "other", seed=9)))
    failure = await failure_of(
        stub.EmbedSamples(pb.EmbedSamplesRequest(collection="rich", samples=samples, model=other))
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OTHER_WEIGHTS")
    await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=pb.Calibration(name="open")))
    await stub.MeasureSamples(pb.MeasureSamplesRequest(calibration="open", samples=samples[:2], model=first))
    failure = await failure_of(
        stub.MeasureSamples(pb.MeasureSamplesRequest(calibration="open", samples=samples, model=other))
    )
    assert failure.reason == "OTHER_WEIGHTS"


async def test_a_calibration_made_anew_is_another(stub) -> None:
    samples = await filled(stub, 20)
    await stub.DeleteCalibration(pb.DeleteCalibrationRequest(name="usual"))
    changed = [*samples, sample("new", "Tell me.", "something else entirely here")]
    failure = await failure_of(embed(stub, changed))
    assert failure.reason == "CALIBRATION_NOT_FOUND"
    await calibrate(stub, samples[:9])
    failure = await failure_of(embed(stub, changed))
    assert failure.reason == "OTHER_CALIBRATION"
    assert len((await select(stub, 5)).selected) == 5


BAD_REQUESTS = (
    (lambda s: select(s, 0), "BAD_BUDGET"),
    (lambda s: select(s, 1, objective=99), "BAD_OBJECTIVE"),
    (lambda s: select(s, 1, weighting=99), "BAD_WEIGHTING"),
    (lambda s: select(s, 1, epsilon=1.5), "BAD_EPSILON"),
    (lambda s: select(s, 1, decay=-0.1), "BAD_DECAY"),
    (lambda s: select(s, 1, threshold=1.1), "BAD_THRESHOLD"),
    (lambda s: select(s, 1, cap=-1), "BAD_CAP"),
    (lambda s: select(s, 1, quality_weight=-1.0), "BAD_QUALITY_WEIGHT"),
    (lambda s: select(s, 1, num_random_curves=21), "BAD_NUM_RANDOM_CURVES"),
    (lambda s: select(s, 1, ids=["000", "000"]), "DUPLICATE_ID"),
    (lambda s: select(s, 1, ids=["nobody"]), "SAMPLE_NOT_EMBEDDED"),
    (lambda s: select(s, 1, selected_ids=["nobody"]), "SAMPLE_NOT_EMBEDDED"),
    (lambda s: select(s, 1, group_budgets={"a": -1}), "BAD_GROUP_BUDGETS"),
    (lambda s: select(s, 1, candidates=[pb.CoverageCandidate(sample_id="000", quality=2)]), "BAD_QUALITY"),
    (lambda s: select(s, 1, objective=pb.COVERAGE_OBJECTIVE_K_CENTER, optimizer=1), "BAD_OPTIMIZER"),
    (lambda s: select(s, 1, "Bad Name"), "BAD_NAME"),
    (lambda s: select(s, 1, "missing"), "COLLECTION_NOT_FOUND"),
    (lambda s: create(s, "x", rule=pb.FEATURE_RULE_STANDARDIZED_TOP_K), "BAD_CALIBRATION"),
    (lambda s: create(s, "x", rule=pb.FEATURE_RULE_TOP_K, calibration="usual"), "BAD_CALIBRATION"),
    (lambda s: create(s, "x", calibration="missing"), "CALIBRATION_NOT_FOUND"),
    (lambda s: create(s, "x", calibration="open"), "CALIBRATION_NOT_FINISHED"),
    (lambda s: create(s, "x", calibration="usual", k=2000), "BAD_K"),
    (
        lambda s: create(s, "x", calibration="usual", rule=pb.FEATURE_RULE_SECTIONS, num_sections=1),
        "BAD_NUM_SECTIONS",
    ),
    (
        lambda s: create(s, "x", calibration="usual", activations=pb.ActivationSettings(max_tokens=99)),
        "BAD_ACTIVATIONS",
    ),
    (
        lambda s: create(s, "x", rule=pb.FEATURE_RULE_TOP_K, activations=pb.ActivationSettings(max_tokens=3)),
        "BAD_MAX_TOKENS",
    ),
    (
        lambda s: create(
            s,
            "x",
            rule=pb.FEATURE_RULE_ABOVE_ZERO,
            activations=pb.ActivationSettings(pooling=pb.ACTIVATION_POOLING_MAX),
        ),
        "BAD_POOLING",
    ),
    (lambda s: create(s, "x", rule=pb.FEATURE_RULE_MIN_MAX, threshold=1.0), "BAD_THRESHOLD"),
    (lambda s: create(s, "rich", rule=pb.FEATURE_RULE_TOP_K), "COLLECTION_EXISTS"),
    (lambda s: calibrate(s, texts(3), "usual", length_boundaries=[5]), "CALIBRATION_EXISTS"),
    (lambda s: calibrate(s, texts(3), "new", length_boundaries=[5, 5]), "BAD_LENGTH_BOUNDARIES"),
    (lambda s: calibrate(s, texts(3), "long", length_boundaries=[5000]), "CALIBRATION_TOO_SMALL"),
    (lambda s: calibrate(s, texts(1), "one"), "CALIBRATION_TOO_SMALL"),
    (lambda s: calibrate(s, texts(3), "usual"), "CALIBRATION_FINISHED"),
)


async def test_bad_requests_are_refused_with_a_reason(stub) -> None:
    await filled(stub, 20)
    await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=pb.Calibration(name="open")))
    for number, (request_of, reason) in enumerate(BAD_REQUESTS):
        failure = await failure_of(request_of(stub))
        assert (number, failure.reason) == (number, reason)
        assert failure.message


async def test_samples_without_enough_to_measure_fail_alone(stub) -> None:
    late = sample("late", "why " * 2000, "So")
    samples = [*texts(4), sample("short", "Why?", "So"), late, sample("unanswered", "Why?")]
    await stub.CreateCalibration(pb.CreateCalibrationRequest(calibration=pb.Calibration(name="usual")))
    reply = await stub.MeasureSamples(pb.MeasureSamplesRequest(calibration="usual", samples=samples))
    assert [one.status.reason for one in reply.measurements] == [""] * 5 + ["TOO_SHORT", "BAD_ROLES"]
    await stub.FinishCalibration(pb.FinishCalibrationRequest(name="usual"))
    await create(stub, calibration="usual")
    reply = await embed(stub, samples)
    assert [one.status.reason for one in reply.embeddings] == [""] * 5 + ["TOO_SHORT", "BAD_ROLES"]
    assert {one.status.code for one in reply.embeddings[5:]} == {code_pb2.INVALID_ARGUMENT}, "no defect of the server"
    assert reply.num_stored == 5


async def test_everything_is_there_after_the_server(settings: ServerSettings) -> None:
    answers = []
    for _ in range(2):
        async with (
            running(settings, partial(create_engine, "fake")) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            if not answers:
                await filled(stub)
            found = (await stub.GetCollection(pb.GetCollectionRequest(name="rich"))).collection
            usual = (await stub.GetCalibration(pb.GetCalibrationRequest(name="usual"))).calibration
            answers.append((found, usual, await select(stub, 10)))
            assert (await embed(stub, texts(61))).num_stored == (1 if len(answers) == 1 else 0)
    assert answers[0][1] == answers[1][1]
    assert answers[1][0].num_vectors == 61


async def test_a_selection_is_given_up_with_its_call(stub) -> None:
    await filled(stub, 20)
    begun, given_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(settings, kind, rows, check):
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                check()
        finally:
            loop.call_soon_threadsafe(given_up.set)

    with mock.patch("burnish_services.embedding.servicer.select", endless):
        call = asyncio.ensure_future(select(stub, 3))
        await begun.wait()
        assert not given_up.is_set()
        call.cancel()
        await given_up.wait()
    assert len((await select(stub, 3)).selected) == 3


async def test_samples_are_embedded_while_a_selection_runs(stub) -> None:
    await filled(stub, 20)
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def endless(settings, kind, rows, check):
        loop.call_soon_threadsafe(begun.set)
        while True:
            check()
            time.sleep(0.01)

    with mock.patch("burnish_services.embedding.servicer.select", endless):
        call = asyncio.ensure_future(select(stub, 3))
        await begun.wait()
        try:
            reply = await asyncio.wait_for(embed(stub, texts(21)), 20)
        finally:
            call.cancel()
    assert reply.num_stored == 1


def test_facility_location_is_stochastic_where_a_look_at_each_takes_too_long() -> None:
    settings = SelectionSettings(1)
    kinds = (ObjectiveKind.LOG, ObjectiveKind.FACILITY_LOCATION)
    chosen = [[settings.optimizer_for(kind, size) for kind in kinds] for size in (3_000, 3_001, 100_001)]
    lazy, stochastic = Optimizer.LAZY, Optimizer.STOCHASTIC
    assert chosen == [[lazy, lazy], [lazy, stochastic], [stochastic, stochastic]]
    assert SelectionSettings(1, optimizer=lazy).optimizer_for(kinds[1], 3_001) is lazy
