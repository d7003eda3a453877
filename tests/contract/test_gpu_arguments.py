"""What vLLM is told on a GPU, and of a model whose positions depend on it; that it holds to it is seen elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from burnish_services.engine.base import EngineSettings, Task
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("task", list(Task))
def test_an_engine_takes_the_share_and_the_gpus_that_it_is_given(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    from burnish_services.engine.vllm_engine import client  # seconds, for every process that collects tests

    monkeypatch.setattr(type(client.current_platform), "is_cpu", lambda _: False)
    settings = EngineSettings("model", task=task, gpu_memory_utilization=0.45, tensor_parallel_size=2)
    arguments = client._arguments(settings, "model", 512, 1024, None)
    assert arguments.gpu_memory_utilization == 0.45
    assert arguments.tensor_parallel_size == 2
    assert arguments.kv_cache_memory_bytes is None, "vLLM fills its share"
    assert arguments.max_num_batched_tokens == 8192
    assert arguments.enable_chunked_prefill is (task is Task.GENERATE)


@pytest.mark.parametrize(
    ("task", "wanted", "context"),
    [(Task.GENERATE, None, 63), (Task.GENERATE, 40, 40), (Task.POOL, None, 64)],
)
def test_longrope_is_never_made_to_use_its_long_factors(
    task: Task, wanted: int | None, context: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish_services.engine.vllm_engine import client
    from burnish_services.engine.vllm_engine.engine import VllmEngine

    class Unstarted:
        dtype, vocab_size = "float32", 320

        def __init__(self, settings: EngineSettings, directory: str, _: str, context: int, cache_bytes: int) -> None:
            self.arguments = client._arguments(settings, directory, context, cache_bytes, None)

    monkeypatch.setattr(client, "VllmClient", Unstarted)
    path = write_tiny_model(tmp_path / "m") / "config.json"
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}
    rope |= {name: [1.0] * 8 for name in ("short_factor", "long_factor")}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": rope}))
    engine = VllmEngine(EngineSettings(str(path.parent), task=task, max_model_len=wanted))
    assert engine._start().arguments.max_model_len <= 64  # type: ignore[attr-defined]
    assert engine.model.max_model_len == context
