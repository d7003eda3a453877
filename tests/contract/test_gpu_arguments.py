"""What vLLM is told on a GPU; that it holds to it can only be seen on one."""

from __future__ import annotations

import pytest

from burnish_services.engine.base import EngineSettings, Task

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
