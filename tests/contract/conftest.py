"""The engines under contract: each started once per task, with two sets of weights to swap between."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from burnish_services.engine.base import Engine, EngineSettings, Task
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.engine.hosting import ModelHost, ModelReference
from tests.golden.cases import CONTEXT, MODEL, write_perturbed


def _engine_mark(kind: str) -> list[pytest.MarkDecorator]:
    return [] if kind == "fake" else [pytest.mark.engine]


KINDS = [pytest.param(kind, marks=_engine_mark(kind)) for kind in ("fake", "transformers", "vllm")]
# Every way to score; vLLM has two, with the plugin and without.
SCORERS = [
    pytest.param((kind, task), marks=_engine_mark(kind), id=f"{kind}-{task}")
    for kind, task in (
        ("fake", Task.POOL),
        ("transformers", Task.POOL),
        ("vllm", Task.POOL),
        ("vllm", Task.GENERATE),
    )
]


@dataclass(frozen=True)
class Rig:
    """A started engine and two models of the same shape; the first is held."""

    kind: str
    host: ModelHost
    first: Path
    second: Path

    @property
    def engine(self) -> Engine:
        return self.host.engine

    @property
    def exact(self) -> bool:
        """Whether results do not depend on what else is in a batch."""
        return self.kind != "vllm"

    def named(self, model: Path) -> ModelReference:
        return ModelReference(str(model))


@pytest.fixture(scope="session")
def perturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 with noise on its weights."""
    assert MODEL.is_dir(), f"{MODEL} is missing; make it with `make model`"
    return write_perturbed(MODEL, tmp_path_factory.mktemp("models") / "perturbed")


class Rigs:
    """Starts each engine when a test first asks for it, and keeps it for the others."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._rigs: dict[tuple[str, Task], Rig] = {}

    async def get(self, kind: str, task: Task) -> Rig:
        task = Task.POOL if kind == "transformers" else task  # which does the same for both
        if (kind, task) not in self._rigs:
            first, second = self._models(kind)
            settings = EngineSettings(str(first), task, dtype="float32", max_model_len=CONTEXT)
            rig = Rig(kind, ModelHost(create_engine(kind, settings)), first, second)
            self._rigs[kind, task] = rig
            await rig.host.start()
        return self._rigs[kind, task]

    async def close(self) -> None:
        for rig in self._rigs.values():
            await rig.host.close()

    def _models(self, kind: str) -> tuple[Path, Path]:
        if kind != "fake":
            return MODEL.resolve(), self._request.getfixturevalue("perturbed")
        directory = self._request.getfixturevalue("tmp_path_factory").mktemp("fake")
        return write_fake_model(directory / "a", seed=1), write_fake_model(directory / "b", seed=2)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def rigs(request: pytest.FixtureRequest) -> AsyncIterator[Rigs]:
    engines = Rigs(request)
    yield engines
    await engines.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=KINDS)
async def generating(request: pytest.FixtureRequest, rigs: Rigs) -> Rig:
    """An engine for text."""
    return await rigs.get(request.param, Task.GENERATE)


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=SCORERS)
async def scoring(request: pytest.FixtureRequest, rigs: Rigs) -> Rig:
    """An engine for scores."""
    return await rigs.get(*request.param)


@pytest_asyncio.fixture(scope="package", loop_scope="session", params=KINDS)
async def pooling(request: pytest.FixtureRequest, rigs: Rigs) -> Rig:
    """An engine for one pass over given tokens."""
    return await rigs.get(request.param, Task.POOL)
