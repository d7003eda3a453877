"""Real gRPC servers in this process, on the fake engine and a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import Server, running

if TYPE_CHECKING:
    from tests.service.object_store import Gate


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "model", name="first", seed=1)


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> ServerSettings:
    return ServerSettings(
        roles=("scoring", "rewriting"), engine="fake", model=str(model), state_dir=tmp_path / "state", grace=2.0
    )


@pytest.fixture
async def server(settings: ServerSettings) -> AsyncIterator[Server]:
    async with running(settings, partial(create_engine, "fake")) as running_server:
        yield running_server


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as open_channel:
        yield open_channel


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Gate]]:
    """An S3 server, and what holds its answers up. moto is imported for who asks for it."""
    from tests.service.object_store import gated_s3_server

    with gated_s3_server() as made:
        yield made


@pytest.fixture
def store(served: tuple[str, Gate], monkeypatch: pytest.MonkeyPatch) -> str:
    """Where it is, which the environment says too."""
    from tests.service.object_store import point_at

    point_at(served[0], monkeypatch)
    return served[0]


@pytest.fixture
def gate(served: tuple[str, Gate]) -> Iterator[Gate]:
    """What it was asked in this test, and what holds it up."""
    served[1].asked.clear()
    yield served[1]
    served[1].open()
