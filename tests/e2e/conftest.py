"""What tests of whole runs run against: made-up services in this process, or real ones on the fake engine in one of
their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from burnish import Client
from burnish.local import LocalServices
from burnish.testing import FakeServices
from burnish_services.engine.fake import write_fake_model
from tests.e2e.support import ROWS, alpaca, write_jsonl


@dataclass(frozen=True)
class FakeEngineServices:
    """Where the services are, and the fake model that they began with."""

    address: str
    model: Path


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngineServices]:
    folder = tmp_path_factory.mktemp("services")
    model = folder / "model"
    write_fake_model(model, name="base", seed=1, skill=0.3)
    with LocalServices(engine="fake", model=model, state_dir=folder / "state") as local:
        yield FakeEngineServices(local.endpoints.scoring, model)


@pytest.fixture
def fakes() -> Iterator[FakeServices]:
    with FakeServices() as services:
        yield services


@pytest.fixture
def client(fakes: FakeServices) -> Iterator[Client]:
    with Client(fakes.endpoints) as client:
        yield client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "data.jsonl", ROWS)


@pytest.fixture
def holdout(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "holdout.jsonl", [{**row, "instruction": "Another?"} for row in alpaca(5)])


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """Six trusted samples, two of which answer prompts of the data anew."""
    rows = [{**row, "output": "A trusted\u2028answer."} for row in ROWS[:2]]
    return write_jsonl(tmp_path / "trusted.jsonl", rows + [{**row, "instruction": "Else?"} for row in ROWS[2:6]])
