"""Model directories that would have code run: refused with words that help, and nothing of them is run."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from safetensors.numpy import save_file

from burnish.api.common.v1 import common_pb2
from burnish.api.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from burnish.api.training.v1 import training_pb2, training_pb2_grpc
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.factory import create_engine
from burnish_services.engine.nli import NliModel
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.server import running
from tests.service.support import failure_of, sample
from tests.service.training_support import sample as training_row
from tests.service.training_support import write_jsonl
from tests.tiny_model import write_tiny_model

_CODE = "from pathlib import Path\nPath({marker!r}).touch()\nfrom transformers import LlamaForCausalLM as TinyModel\n"


class _Touching:
    """What a pickle can be: a call of anything, made as it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._marker,)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
async def channel(good: Path, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    settings = ServerSettings(
        roles=("scoring", "training"),
        engine="transformers",
        model=str(good),
        state_dir=tmp_path / "state",
        grace=2.0,
    )
    async with (
        running(settings, partial(create_engine, "transformers")) as server,
        grpc.aio.insecure_channel(server.address) as opened,
    ):
        yield opened


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with other weights than the one that is held."""
    return write_tiny_model(tmp_path / "model", seed=1)


def _edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), encoding="utf-8")


def _with_pickled_weights(model: Path, marker: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Touching(marker)))


def _with_code(model: Path, marker: Path) -> None:
    (model / "modeling_tiny.py").write_text(_CODE.format(marker=str(marker)), encoding="utf-8")
    auto_map = {"AutoModelForCausalLM": "modeling_tiny.TinyModel", "AutoConfig": "modeling_tiny.TinyModel"}
    _edit(model / "config.json", auto_map=auto_map)


async def _score(channel: grpc.aio.Channel, model: Path) -> scoring_pb2.ScoreSamplesResponse:
    request = scoring_pb2.ScoreSamplesRequest(
        model=common_pb2.ModelRef(uri=str(model)), samples=[sample("a", "Question?", "Answer.")]
    )
    reply: scoring_pb2.ScoreSamplesResponse = await scoring_pb2_grpc.ScoringServiceStub(channel).ScoreSamples(request)
    return reply


async def test_weights_that_are_only_pickled_are_refused(
    channel: grpc.aio.Channel, model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").unlink()
    _with_pickled_weights(model, tmp_path / "was run")
    failure = await failure_of(_score(channel, model))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert "*.safetensors" in failure.message
    assert not (tmp_path / "was run").exists()


async def test_pickled_weights_are_not_taken_where_the_safetensors_are_others(
    channel: grpc.aio.Channel, model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").rename(model / "adapter.safetensors")
    _with_pickled_weights(model, tmp_path / "was run")
    failure = await failure_of(_score(channel, model))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert "model.safetensors" in failure.message
    assert not (tmp_path / "was run").exists()


async def test_code_of_a_model_that_is_known_without_it_is_not_run(
    channel: grpc.aio.Channel, model: Path, tmp_path: Path
) -> None:
    _with_code(model, tmp_path / "was run")
    reply = await _score(channel, model)
    assert reply.scores[0].status.code == 0
    assert not (tmp_path / "was run").exists()


async def test_a_model_that_needs_its_own_code_is_refused(
    channel: grpc.aio.Channel, model: Path, good: Path, tmp_path: Path
) -> None:
    _with_code(model, tmp_path / "was run")
    _edit(model / "config.json", model_type="tiny_and_unheard_of")
    failure = await failure_of(_score(channel, model))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert not (tmp_path / "was run").exists()
    assert (await _score(channel, good)).scores[0].status.code == 0, "the weights held before serve on"

    stub = training_pb2_grpc.TrainingServiceStub(channel)
    data = write_jsonl(tmp_path / "data.jsonl", [training_row(number) for number in range(4)])
    spec = training_pb2.RunSpec(base_model=common_pb2.ModelRef(uri=str(model)), data_uri=str(data))
    run = (await stub.CreateRun(training_pb2.CreateRunRequest(request_id=tmp_path.name, spec=spec))).run
    ended = [event.run async for event in stub.WatchRun(training_pb2.WatchRunRequest(run_id=run.run_id))][-1]
    assert ended.error.reason == "MODEL_LOAD_FAILED"
    assert "never run" in ended.error.message
    assert not (tmp_path / "was run").exists()


async def test_an_adapter_whose_weights_are_only_pickled_is_refused(
    channel: grpc.aio.Channel, good: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    about = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(good)}
    (adapter / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(_Touching(tmp_path / "was run")))
    failure = await failure_of(_score(channel, adapter))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert "adapter_model.safetensors" in failure.message
    assert not (tmp_path / "was run").exists()


async def test_an_adapter_of_another_kind_is_refused(channel: grpc.aio.Channel, good: Path, tmp_path: Path) -> None:
    about = {"peft_type": "XLORA", "base_model_name_or_path": str(good), "adapters": {"0": "/elsewhere"}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "adapter_model.safetensors")
    failure = await failure_of(_score(channel, tmp_path))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert "has peft_type 'XLORA'; expected 'LORA'" in failure.message


async def test_an_adapter_of_itself_is_refused(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    about = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    failure = await failure_of(_score(channel, tmp_path))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert "expected a whole model" in failure.message


def test_a_judge_of_contradictions_is_held_to_the_same(model: Path, tmp_path: Path) -> None:
    _with_code(model, tmp_path / "was run")
    _edit(model / "config.json", model_type="tiny_and_unheard_of")
    with pytest.raises(ModelLoadError, match="never run"):
        NliModel(model, batch_size=1)
    (model / "model.safetensors").unlink()
    _with_pickled_weights(model, tmp_path / "was run")
    _edit(model / "config.json", model_type="llama", auto_map={})
    with pytest.raises(ModelLoadError, match="safetensors"):
        NliModel(model, batch_size=1)
    assert not (tmp_path / "was run").exists()
