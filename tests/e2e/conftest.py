"""Real services on the fake engine, in a process of their own, for tests of whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from burnish.local import LocalServices
from burnish_services.engine.fake import write_fake_model


@dataclass(frozen=True)
class FakeEngineServices:
    """Where the services are, and the fake model that they began with."""

    address: str
    model: Path


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngineServices]:
    folder = tmp_path_factory.mktemp("services")
    model = folder / "model"
    write_fake_model(model, name="base", seed=1, skill=0.3)
    with LocalServices(engine="fake", model=model, state_dir=folder / "state") as local:
        yield FakeEngineServices(local.endpoints.scoring, model)
