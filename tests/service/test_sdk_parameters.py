"""Parameters of the SDK's calls that its other tests leave at their defaults. Each of them changes what real services
on the fake engine answer, in the same way from either client as over the wire by hand: a lost one would be seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from burnish import (
    AsyncClient,
    BilevelSelection,
    Client,
    ConfidenceTier,
    Hyperparameters,
    Message,
    ModelRef,
    NeighborMetric,
    Role,
    RunSpec,
    Sample,
    Sampling,
)
from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model
from tests.service import support
from tests.service.training_support import sample as training_row
from tests.service.training_support import write_jsonl

PAIRS = [(f"s{i}", f"Tell me about number {i} of the water.", f"The water of number {i} is wet.") for i in range(12)]
PAIRS.append(("twin", PAIRS[0][1], "Another answer."))  # whose vector is that of the first
ON_THE_WIRE = [support.sample(*pair) for pair in PAIRS]
SAMPLES = [
    Sample(name, (Message(Role.USER, prompt), Message(Role.ASSISTANT, response))) for name, prompt, response in PAIRS
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("base") / "model", name="base", seed=1, skill=0.3)


@pytest.fixture(scope="module")
def address(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    roles, state = ("scoring", "embedding", "training"), tmp_path_factory.mktemp("state")
    with LocalServices(roles, engine="fake", model=base, state_dir=state) as local:
        yield local.endpoints.scoring


@pytest.fixture(scope="module")
def channel(address: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as opened:
        yield opened


@pytest.fixture(scope="module")
def filled(client: Client) -> str:
    """A collection of all samples."""
    client.embedding.create_collection("filled")
    assert client.embedding.embed(SAMPLES, collection="filled").num_stored == len(SAMPLES)
    return "filled"


def neighbourhoods(found: Any) -> list[tuple[object, ...]]:
    """What a reply says of each sample; the SDK's has the names of the wire's."""
    return [
        (
            *(one.sample_id, one.mean_cosine, one.mean_distance),
            [(near.sample_id, near.cosine, near.distance) for near in one.neighbors],
        )
        for one in found.statistics
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"metric": NeighborMetric.EUCLIDEAN}, {"metric": embedding_pb2.NEIGHBOR_METRIC_EUCLIDEAN}),
        ({"exclude_duplicates": True}, {"exclude_duplicates": True}),
        ({"recall": 0.5}, {"recall": 0.5}),
    ],
    ids=["metric", "exclude_duplicates", "recall"],
)
async def test_how_neighbours_are_sought(
    address: str,
    channel: grpc.Channel,
    client: Client,
    filled: str,
    given: dict[str, Any],
    sent: dict[str, Any],
) -> None:
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    by_hand, usual = (
        stub.GetNeighborStatistics(embedding_pb2.GetNeighborStatisticsRequest(collection=filled, k=1, **more))
        for more in (sent, {})
    )
    assert by_hand != usual, "it makes a difference"
    async with AsyncClient(address) as other:
        replies = [
            client.embedding.neighbor_statistics(filled, k=1, **given),
            await other.embedding.neighbor_statistics(filled, k=1, **given),
        ]
    search = by_hand.search
    for found in replies:
        assert neighbourhoods(found) == neighbourhoods(by_hand)
        assert (found.recall, found.num_queries) == (search.recall, search.num_queries)
        assert (found.num_cells, found.num_probed) == (search.num_cells, search.num_probed)
    assert len(by_hand.statistics) == len(SAMPLES)
    assert (search.num_cells > 0) == ("recall" in given)


@pytest.mark.parametrize(("name", "value"), [("alpha", 0.1), ("likelihood_weight", 0.6), ("min_covered_mass", 0.95)])
async def test_what_a_confidence_is_made_of(
    address: str, channel: grpc.Channel, client: Client, name: str, value: float
) -> None:
    given: dict[str, Any] = {name: value}
    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
    by_hand, usual = (
        stub.EstimateConfidence(
            scoring_pb2.EstimateConfidenceRequest(
                samples=ON_THE_WIRE,
                tier=scoring_pb2.CONFIDENCE_TIER_STANDARD,
                num_answers=3,
                sampling=common_pb2.SamplingParameters(seed=3),
                **more,
            )
        ).estimates
        for more in (given, {})
    )
    expected = [(one.sample_id, one.status.reason, one.confidence) for one in by_hand]
    assert expected != [(one.sample_id, one.status.reason, one.confidence) for one in usual], "it makes a difference"
    asked: dict[str, Any] = {"tier": ConfidenceTier.STANDARD, "num_answers": 3, "sampling": Sampling(seed=3)}
    async with AsyncClient(address) as other:
        replies = [
            client.scoring.confidence(SAMPLES, **asked, **given),
            await other.scoring.confidence(SAMPLES, **asked, **given),
        ]
    for found in replies:
        # Where there is no confidence the wire has 0.
        assert [(one.sample_id, one.status.reason, one.confidence or 0.0) for one in found.estimates] == expected


async def test_weights_after_a_step(
    address: str, channel: grpc.Channel, client: Client, base: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", [training_row(number) for number in range(8)])
    trusted = write_jsonl(tmp_path / "trusted.jsonl", [training_row(99)])
    how = Hyperparameters(num_epochs=3, per_device_batch_size=4, gradient_accumulation_steps=1)
    spec = RunSpec(ModelRef(str(base)), str(data), hyperparameters=how, bilevel=BilevelSelection(str(trusted)))
    run = client.training.create(spec, "weighing")
    run.result(timeout=60)
    assert [one.step for one in run.sample_weights()] == [2, 4, 6], "after each pass"
    stub = training_pb2_grpc.TrainingServiceStub(channel)
    by_hand = list(
        stub.ReadSampleWeights(training_pb2.ReadSampleWeightsRequest(run_id=run.run_id, after_step=2)),
    )
    expected = [(part.step, [(one.id, one.weight, one.logit) for one in part.weights]) for part in by_hand]
    assert [step for step, _ in expected] == [4, 6]
    assert [len(weights) for _, weights in expected] == [8, 8]
    async with AsyncClient(address) as other:
        twin = await other.training.get(run.run_id)
        replies = [list(run.sample_weights(after_step=2)), [one async for one in twin.sample_weights(after_step=2)]]
    for found in replies:
        told = [(one.step, list(zip(one.ids, one.weights.tolist(), one.logits.tolist(), strict=True))) for one in found]
        assert told == expected
        assert not np.array_equal(found[0].weights, found[1].weights), "they were learnt"
    assert [one.step for one in run.sample_weights(6)] == []
