"""Real training from and to object storage: an adapter and its base, made on one host and served on another."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from burnish import AsyncClient, Lora, Message, ModelRef, Role, RunSpec, Sample
from burnish._types import Hyperparameters
from burnish_services.engine.factory import create_engine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running
from tests.service.object_store import BUCKET, names_below, point_at, put, put_model, read, s3_server

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]

SAMPLES = [Sample("s", (Message(Role.USER, "What is number 12?"), Message(Role.ASSISTANT, "It is 12.")))]


async def test_an_adapter_in_the_store_is_the_same_model_on_every_host(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_TRAINING_THREADS", "1")
    with s3_server() as store:
        point_at(store, monkeypatch)
        uri, rows = put_model(store, "base", base), put(store, "data.jsonl", data.read_bytes())  # noqa: ASYNC240
        output = f"s3://{BUCKET}/made/adapter"

        def host(name: str, *roles: str) -> ServerSettings:
            roots = {"read_roots": f"s3://{BUCKET}", "write_roots": f"s3://{BUCKET}/made"}
            return ServerSettings(roles=roles, engine="transformers", model=uri, state_dir=tmp_path / name, **roots)

        async with (
            running(host("one", "training", "scoring"), partial(create_engine, "transformers")) as server,
            AsyncClient(server.address) as client,
        ):
            how = Hyperparameters(learning_rate=1e-2, gradient_accumulation_steps=1)
            lora = Lora(rank=4, adapter_only=True)
            spec = RunSpec(ModelRef(uri), rows, output_uri=output, hyperparameters=how, lora=lora)
            made = (await (await client.training.create(spec)).result()).model
            before = await client.scoring.score(SAMPLES)
            here = await client.scoring.score(SAMPLES, model=made)
        assert made.uri == output
        assert here.model.digest == made.digest
        assert here.scores[0].mean_nll != before.scores[0].mean_nll
        files = ["adapter_config.json", "adapter_model.safetensors", "burnish.json"]
        assert names_below(store, "made/adapter") == [f"made/adapter/{name}" for name in files]
        assert json.loads(read(store, "made/adapter/adapter_config.json"))["base_model_name_or_path"] == uri

        async with (
            running(host("two", "scoring"), partial(create_engine, "transformers")) as server,
            AsyncClient(server.address) as client,
        ):
            there = await client.scoring.score(SAMPLES, model=made)
        assert (there.model, there.scores) == (here.model, here.scores)
