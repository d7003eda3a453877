"""The synchronous client offers exactly what the asynchronous one does, with the same parameters."""

from __future__ import annotations

import inspect
import re
from importlib import import_module

import pytest
from google.protobuf.descriptor import ServiceDescriptor

import burnish
from burnish._channel import DEFAULT_DEADLINES
from burnish._embedding import AsyncEmbedding, Embedding
from burnish._rewriting import AsyncRewriting, Rewriting
from burnish._scoring import AsyncScoring, Scoring
from burnish._training import AsyncRun, AsyncTraining, Run, Training

TWINS = [
    (AsyncScoring, Scoring),
    (AsyncEmbedding, Embedding),
    (AsyncRewriting, Rewriting),
    (AsyncTraining, Training),
    (AsyncRun, Run),
    (burnish.AsyncClient, burnish.Client),
]


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value)
        for name, value in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("twins", TWINS, ids=lambda twins: twins[1].__name__)
def test_same_methods_and_parameters(twins: tuple[type, type]) -> None:
    asynchronous, synchronous = map(public, twins)
    assert set(asynchronous) == set(synchronous)
    for name, signature in asynchronous.items():
        assert list(signature.parameters.values()) == list(synchronous[name].parameters.values()), name


@pytest.mark.parametrize("twins", TWINS, ids=lambda twins: twins[1].__name__)
def test_same_results(twins: tuple[type, type]) -> None:
    asynchronous, synchronous = map(public, twins)
    for name, signature in asynchronous.items():
        wanted = str(signature.return_annotation).replace("AsyncRun", "Run")
        wanted = re.sub(r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]", wanted)
        assert str(synchronous[name].return_annotation) == wanted, name


def service_of(service: str) -> ServiceDescriptor:
    module = import_module(f"burnish.api.{service}.v1.{service}_pb2")
    descriptor: ServiceDescriptor = module.DESCRIPTOR.services_by_name[f"{service.capitalize()}Service"]
    return descriptor


@pytest.mark.parametrize("service", ["scoring", "embedding", "rewriting", "training"])
def test_every_rpc_has_its_method(service: str) -> None:
    rpcs = {m.name for m in service_of(service).methods}
    methods = {
        "GetInfo": "info",
        "LoadModel": "load_model",
        "ScoreSamples": "score",
        "JudgeSamples": "judge",
        "EstimateConfidence": "confidence",
        "ComparePairs": "compare",
        "EmbedSamples": "embed",
        "CreateCollection": "create_collection",
        "GetCollection": "get_collection",
        "ListCollections": "list_collections",
        "DeleteCollection": "delete_collection",
        "GetNeighborStatistics": "neighbor_statistics",
        "SelectCoverage": "select",
        "ProjectSamples": "project",
        "CreateCalibration": "create_calibration",
        "GetCalibration": "get_calibration",
        "ListCalibrations": "list_calibrations",
        "DeleteCalibration": "delete_calibration",
        "MeasureSamples": "measure",
        "FinishCalibration": "finish_calibration",
        "RewriteSamples": "rewrite",
        "GenerateResponses": "respond",
        "UploadData": "upload",
        "CreateRun": "create",
        "GetRun": "get",
        "ListRuns": "list",
        "CancelRun": "cancel",
        "WatchRun": "watch",
        "ReadSampleWeights": "sample_weights",
        "ResumeRun": "resume",
    }
    names_a_model = {m.name for m in service_of(service).methods if "model" in m.input_type.fields_by_name}
    assert names_a_model <= set(DEFAULT_DEADLINES), "what may wait for a model must not end after a minute"
    kinds = {k.__name__.lower(): k for k, _ in TWINS}
    offered = set(public(kinds[f"async{service}"])) | (set(public(AsyncRun)) if service == "training" else set())
    assert {methods[rpc] for rpc in rpcs} <= offered
