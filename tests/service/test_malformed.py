"""Requests that are no requests: bytes that are no protobuf, methods that are none, values too long to repeat."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish_services.engine.factory import create_engine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running
from tests.service.support import failure_of

SCORING, TRAINING = "/burnish.api.scoring.v1.ScoringService/", "/burnish.api.training.v1.TrainingService/"


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> ServerSettings:
    return ServerSettings(engine="fake", model=str(model), state_dir=tmp_path / "state", grace=2.0)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize("method", [SCORING + "ScoreSamples", SCORING + "GetInfo", TRAINING + "CreateRun"])
async def test_bytes_that_are_no_message(
    channel: grpc.aio.Channel, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    await _is_refused(channel.unary_unary(method)(b"\xff secret"), caplog)


async def test_bytes_that_are_no_message_of_a_watch(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    await _is_refused(channel.unary_stream(TRAINING + "WatchRun")(b"\xff secret").read(), caplog)


async def test_bytes_that_are_no_message_of_an_upload(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    await _is_refused(channel.stream_unary(TRAINING + "UploadData")(_one(b"\xff secret")), caplog)


async def _is_refused(call: Any, caplog: pytest.LogCaptureFixture) -> None:
    failure = await failure_of(call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_MESSAGE")
    assert "8 bytes" in failure.message
    assert "expected" in failure.message
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "secret" not in caplog.text


async def test_fields_of_a_newer_client_are_passed_over(channel: grpc.aio.Channel) -> None:
    reply = await channel.unary_unary(SCORING + "GetInfo")(b"\xfa\x7f\x05never")
    assert scoring_pb2.GetInfoResponse.FromString(reply).info.version


@pytest.mark.parametrize("method", [SCORING + "NoSuchMethod", "/no.such.Service/GetInfo", "/x", "/x/y/z", "/"])
@pytest.mark.parametrize("guarded", [False, True], ids=["open", "with tokens"])
async def test_methods_that_are_none(
    settings: ServerSettings, method: str, guarded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["all"]\n')
    settings = settings.model_copy(update={"tokens": tokens if guarded else None, "roles": ("scoring",)})
    async with (
        running(settings, partial(create_engine, "fake")) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        failure = await failure_of(channel.unary_unary(method)(b"", timeout=30))
    assert failure.code is (grpc.StatusCode.UNAUTHENTICATED if guarded else grpc.StatusCode.UNIMPLEMENTED)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("value", ["x" * 200_000, "ж" * 200_000, "\x00" * 200_000], ids=["ascii", "wide", "null"])
async def test_values_too_long_to_repeat_are_refused_by_name_all_the_same(
    channel: grpc.aio.Channel, value: str
) -> None:
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    failure = await failure_of(stub.GetCollection(embedding_pb2.GetCollectionRequest(name=value)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_NAME")
    assert failure.message.startswith("name is ")
    assert "expected a name of 1 to 128 characters" in failure.message

    request = scoring_pb2.LoadModelRequest()
    request.model.uri = value
    failure = await failure_of(scoring_pb2_grpc.ScoringServiceStub(channel).LoadModel(request))
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert failure.message.endswith("that this server can read")
