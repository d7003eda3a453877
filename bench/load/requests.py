"""The calls that are measured: one for each service, with requests of a usual size, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf.message import Message as ProtoMessage

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2
from burnish.api.rewriting.v1 import rewriting_pb2
from burnish.api.scoring.v1 import scoring_pb2
from burnish.api.training.v1 import training_pb2

BATCH = 16  # samples of a call
RUNS = 50  # that ListRuns lists


@dataclass(frozen=True)
class Call:
    """A method and the bytes of its request."""

    name: str
    method: str
    request: bytes


def samples() -> list[common_pb2.Sample]:
    """Instructions of a sentence with answers of two, all different."""
    made = []
    for number in range(BATCH):
        question = f"Explain in a few words why item {number} of the list is in its place there."
        answer = f"Item {number} comes after item {number - 1}, which is smaller. The list is sorted."
        messages = [
            common_pb2.Message(role=common_pb2.ROLE_USER, content=question),
            common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content=answer),
        ]
        made.append(common_pb2.Sample(id=f"s{number}", messages=messages))
    return made


def calls(address: str, data: str, model: str) -> list[Call]:
    """One for each service, two for training, which gets its runs here."""
    run = _make_runs(address, data, model)
    items = [rewriting_pb2.RewriteItem(sample=sample) for sample in samples()[:4]]
    simplify = rewriting_pb2.RewriteSamplesRequest(items=items, strategy=rewriting_pb2.STRATEGY_SIMPLIFY)
    made: list[tuple[str, str, str, ProtoMessage]] = [
        ("score", "scoring", "ScoreSamples", scoring_pb2.ScoreSamplesRequest(samples=samples())),
        ("embed", "embedding", "EmbedSamples",
         embedding_pb2.EmbedSamplesRequest(samples=samples(), return_vectors=True)),
        ("rewrite", "rewriting", "RewriteSamples", simplify),
        ("get run", "training", "GetRun", training_pb2.GetRunRequest(run_id=run)),
        ("list runs", "training", "ListRuns", training_pb2.ListRunsRequest(page_size=RUNS)),
    ]  # fmt: skip
    return [
        Call(name, f"/burnish.api.{service}.v1.{service.capitalize()}Service/{method}", request.SerializeToString())
        for name, service, method, request in made
    ]


def reply_sizes(address: str, asked: list[Call]) -> dict[str, int]:
    """Bytes of each call's reply."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        return {call.method: len(channel.unary_unary(call.method)(call.request)) for call in asked}


def _make_runs(address: str, data: str, model: str) -> str:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        create = channel.unary_unary(
            "/burnish.api.training.v1.TrainingService/CreateRun",
            request_serializer=training_pb2.CreateRunRequest.SerializeToString,
            response_deserializer=training_pb2.CreateRunResponse.FromString,
        )
        cancel = channel.unary_unary("/burnish.api.training.v1.TrainingService/CancelRun")
        run = ""
        for number in range(RUNS):
            spec = training_pb2.RunSpec(base_model=common_pb2.ModelRef(uri=model), data_uri=data)
            run = create(training_pb2.CreateRunRequest(request_id=f"r{number}", spec=spec)).run.run_id
            cancel(training_pb2.CancelRunRequest(run_id=run).SerializeToString())
    return run
