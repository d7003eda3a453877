"""A clock that jumps, and a model that is not what it was: the run ends the same, or says what to put right."""

from __future__ import annotations

import random
import shutil
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish import AsyncClient, Client
from burnish.coordinator import progress
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.loop import run_recipe, run_recipe_async
from burnish_services.engine.factory import create_engine
from burnish_services.engine.fake import write_fake_model
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running
from burnish_services.training import data_store, runs, servicer, supervisor
from tests.e2e.conftest import FakeEngineServices
from tests.e2e.support import Watcher, alpaca, digest_of_final, settings, write_jsonl


async def made_by_run(folder: Path, model: Path) -> str:
    """Digest of what a run makes whose coordinator and services are all in this process."""
    config = ServerSettings(engine="fake", model=str(model), state_dir=folder / "state", grace=2.0)
    data = write_jsonl(folder / "data.jsonl", alpaca(24))
    async with running(config, partial(create_engine, "fake")) as server, AsyncClient(server.address) as client:
        await run_recipe_async(settings(data, model=str(model)), client, folder / "out")
    return digest_of_final(folder / "out")


async def test_a_clock_that_jumps_by_days_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, honest, looked = random.Random(1), time.time, 0

    def jumping() -> float:
        nonlocal looked
        looked += 1
        return honest() + rng.uniform(-10, 10) * 86_400

    model = write_fake_model(tmp_path / "model", seed=1, skill=0.3)
    calm, odd = tmp_path / "calm", tmp_path / "odd"
    calm.mkdir()
    odd.mkdir()
    expected = await made_by_run(calm, model)
    with monkeypatch.context() as patched:
        # For ourselves only: gRPC makes a deadline of one look at the clock here and another in its core.
        clock = SimpleNamespace(**vars(time) | {"time": jumping})
        for module in (progress, data_store, runs, servicer, supervisor):
            patched.setattr(module, "time", clock)
        assert await made_by_run(odd, model) == expected
    assert looked > 20


def test_a_trained_model_that_was_changed_is_named_and_put_back(services: FakeEngineServices, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(24))
    asked = partial(settings, data, model=str(services.model))

    class Meddler(Watcher):
        """Writes other weights over the model that has just been trained."""

        def step_finished(self, step: object) -> None:
            super().step_finished(step)  # type: ignore[arg-type]
            if self.steps[-1].name == "train":
                (trained,) = (tmp_path / "out" / "models").glob("*1*")
                shutil.copytree(trained, tmp_path / "kept")
                write_fake_model(trained, name="meddled", seed=99)

    with Client(services.address) as client:
        run_recipe(asked(), client, tmp_path / "calm")
        with pytest.raises(StepFailed, match=r"Put it back.*MODEL_DIGEST_MISMATCH") as error:
            run_recipe(asked(), client, tmp_path / "out", observer=Meddler())
        (changed,) = (tmp_path / "out" / "models").glob("*1*")
        assert str(changed) in str(error.value)
        shutil.rmtree(changed)
        (tmp_path / "kept").rename(changed)
        run_recipe(asked(), client, tmp_path / "out")
    assert digest_of_final(tmp_path / "out") == digest_of_final(tmp_path / "calm")
