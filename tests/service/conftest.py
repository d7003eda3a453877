"""Real gRPC servers in this process, on the fake engine and a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import grpc.aio
import pytest

from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import Server, running


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
