"""The engines under contract: each started once per session and task, with two sets of weights to swap between."""

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

KINDS = [
    "fake",
    pytest.param("transformers", marks=pytest.mark.engine),
    pytest.param("vllm", marks=pytest.mark.engine),
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


async def _rig(kind: str, task: Task, first: Path, second: Path, dtype: str = "float32") -> AsyncIterator[Rig]:
    settings = EngineSettings(str(first), task, dtype=dtype, max_model_len=CONTEXT)
    host = ModelHost(create_engine(kind, settings))
    try:
        await host.start()
        yield Rig(kind, host, first, second)
    finally:
        await host.close()


def _models(request: pytest.FixtureRequest, kind: str) -> tuple[Path, Path]:
    if kind != "fake":
        return MODEL.resolve(), request.getfixturevalue("perturbed")
    directory = request.getfixturevalue("tmp_path_factory").mktemp("fake")
    return write_fake_model(directory / "a", seed=1), write_fake_model(directory / "b", seed=2)


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=KINDS)
async def generating(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """An engine for scores and text."""
    async for rig in _rig(request.param, Task.GENERATE, *_models(request, request.param)):
        yield rig


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=KINDS)
async def embedding(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """An engine for vectors."""
    async for rig in _rig(request.param, Task.EMBED, *_models(request, request.param)):
        yield rig
