"""Adapters that are published alone: small, named like any model, and served as what merging them would have made."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from burnish import AsyncClient, Lora, Message, ModelRef, NotFound, PreconditionFailed, Role, RunSpec, Sample
from burnish._types import Hyperparameters
from burnish_services.engine.factory import create_engine
from burnish_services.engine.model_digests import model_digest, model_digests
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]

SAMPLES = [
    Sample(f"s{i}", (Message(Role.USER, f"What is number {i}?"), Message(Role.ASSISTANT, f"It is {i}.")))
    for i in range(4)
]
HOW = Hyperparameters(num_epochs=3, learning_rate=1e-2, per_device_batch_size=4, gradient_accumulation_steps=1, seed=0)


async def test_an_adapter_is_served_as_the_model_that_merging_makes(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_THREADS", "1")
    settings = ServerSettings(
        roles=("training", "scoring"), engine="transformers", model=str(base), state_dir=tmp_path / "state"
    )
    alone, merged = tmp_path / "alone", tmp_path / "merged"
    async with (
        running(settings, partial(create_engine, "transformers")) as server,
        AsyncClient(server.address) as client,
    ):
        for output, adapter_only in ((alone, True), (merged, None)):
            lora = Lora(rank=4, alpha=20, dropout=0.1, adapter_only=adapter_only)
            spec = RunSpec(ModelRef(str(base)), str(data), output_uri=str(output), hyperparameters=HOW, lora=lora)
            made = await (await client.training.create(spec)).result()
            assert made.model.digest == model_digest(output)
        config = json.loads((alone / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (4, 20, 0.1)
        size = {name: sum(f.stat().st_size for f in (tmp_path / name).iterdir()) for name in ("alone", "merged")}
        assert size["alone"] < size["merged"] / 3

        before = await client.scoring.score(SAMPLES)
        whole = await client.scoring.score(SAMPLES, model=ModelRef(str(merged)))
        served = await client.scoring.score(SAMPLES, model=ModelRef(str(alone), model_digest(alone)))
        assert (served.model.uri, served.model.digest) == (str(alone), model_digest(alone))
        assert [one.mean_nll for one in served.scores] == [one.mean_nll for one in whole.scores]
        assert [one.mean_nll for one in served.scores] != [one.mean_nll for one in before.scores]
        (kept,) = (tmp_path / "state" / "merged").iterdir()
        assert model_digests(kept).weights == model_digests(merged).weights

        with pytest.raises(PreconditionFailed, match="is a low-rank adapter, where a whole model was expected"):
            await client.training.create(RunSpec(ModelRef(str(alone)), str(data)))
        (alone / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/gone"}))
        with pytest.raises(NotFound, match=r"the base model of the adapter in .*alone.*'/gone'"):
            await client.scoring.score(SAMPLES, model=ModelRef(str(alone)))


def test_an_adapter_is_the_same_wherever_it_and_its_base_are_and_another_on_another_base(tmp_path: Path) -> None:
    def adapter_of(base: Path, name: str) -> Path:
        made = tmp_path / name
        made.mkdir()
        (made / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": str(base)}))
        return made

    base, other = write_tiny_model(tmp_path / "base"), write_tiny_model(tmp_path / "other", seed=1)
    shutil.copytree(base, tmp_path / "copy")
    digests = [model_digest(adapter_of(*pair)) for pair in ((base, "a"), (tmp_path / "copy", "b"), (other, "c"))]
    assert digests[0] == digests[1] != digests[2]
    # A base that is replaced is noticed, though no file of the adapter has changed.
    shutil.rmtree(base)
    shutil.copytree(other, base)
    assert model_digest(tmp_path / "a") == digests[2]
