"""One plugin for every architecture: on tiny random models of other families it agrees, token for token in float32,
with vLLM's own prompt_logprobs and with transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish_services.engine.base import EngineSettings, ScoreRequest, Task, TokenScores
from burnish_services.engine.factory import create_engine
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CONTEXT = 256
TOLERANCE = 1e-4  # nats, of any token
IDS = [np.random.default_rng(length).integers(3, 259, length).tolist() for length in (2, 17, 90, CONTEXT)]


async def logprobs(kind: str, task: Task, model: Path) -> tuple[str, list[np.ndarray]]:
    engine = create_engine(kind, EngineSettings(str(model), task, dtype="float32", max_model_len=CONTEXT))
    await engine.start()
    try:
        results = await engine.score([ScoreRequest(ids) for ids in IDS])
        assert all(isinstance(result, TokenScores) for result in results), results
        return engine.score_method, [result.logprobs for result in results]  # type: ignore[union-attr]
    finally:
        await engine.close()


@pytest.mark.parametrize("architecture", ["Qwen3", "Gemma3", "Mistral"])
async def test_all_ways_to_score_agree(architecture: str, tmp_path: Path) -> None:
    model = write_tiny_model(
        tmp_path / "model", architecture=architecture, head_dim=64, context=CONTEXT, dtype="float32"
    )
    _, expected = await logprobs("transformers", Task.POOL, model)
    for task, method in ((Task.POOL, "plugin"), (Task.GENERATE, "prompt_logprobs")):
        found_method, found = await logprobs("vllm", task, model)
        assert found_method == method
        for one, reference in zip(found, expected, strict=True):
            assert one.shape == reference.shape
            assert np.abs(one - reference).max() <= TOLERANCE, (architecture, method, len(one))
