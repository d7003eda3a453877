"""The training service on the fake trainer: a base model, data, and a client of a started server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ServerSettings
from tests.service.training_support import Client, client_of, sample, write_jsonl


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    monkeypatch.setenv("BURNISH_TRAINING_RESTART_DELAY", "0")
    return ServerSettings(roles=("training",), engine="fake", state_dir=tmp_path / "state", grace=2.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_fake_model(tmp_path / "base", name="base", seed=3, skill=0.2)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", [sample(index) for index in range(40)])


@pytest.fixture
async def client(settings: ServerSettings) -> AsyncIterator[Client]:
    async with client_of(settings) as started:
        yield started
