"""The training service on torch: a tiny real model, data, and a client of a started server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from burnish_services.runtime.config import ServerSettings
from tests.service.training_support import Client, client_of, sample, write_jsonl
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", [sample(index) for index in range(36)])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    monkeypatch.setenv("BURNISH_TRAINING_RESTART_DELAY", "0")
    monkeypatch.setenv("BURNISH_TRAINING_THREADS", "1")
    return ServerSettings(roles=("training",), engine="transformers", state_dir=tmp_path / "state")


@pytest.fixture
async def client(settings: ServerSettings) -> AsyncIterator[Client]:
    async with client_of(settings) as started:
        yield started
