"""One plugin for every architecture: on tiny random models of other families it agrees, token for token in float32,
with transformers; and its neurons are found, and do the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish_services.engine.base import Activations, EngineSettings, ScoreRequest, Task, TokenScores
from burnish_services.engine.factory import create_engine
from tests.tiny_model import write_tiny_model

pytestmark = [pytest.mark.engine, pytest.mark.slow]

CONTEXT = 256
TOLERANCE = 1e-4  # nats, of any token
IDS = [np.random.default_rng(length).integers(3, 259, length).tolist() for length in (2, 17, 90, CONTEXT)]


async def scores(kind: str, model: Path) -> tuple[str, list[TokenScores]]:
    engine = create_engine(kind, EngineSettings(str(model), Task.POOL, dtype="float32", max_model_len=CONTEXT))
    await engine.start()
    try:
        assert engine.model.neurons == (2, 128)
        requests = [ScoreRequest(ids, activations=Activations([(0, len(ids))])) for ids in IDS]
        results = await engine.score(requests)
        assert all(isinstance(result, TokenScores) for result in results), results
        return engine.score_method, results  # type: ignore[return-value]
    finally:
        await engine.close()


@pytest.mark.parametrize("architecture", ["Qwen3", "Gemma3"])
async def test_the_plugin_scores_as_transformers_do(architecture: str, tmp_path: Path) -> None:
    model = write_tiny_model(
        tmp_path / "model", architecture=architecture, head_dim=64, context=CONTEXT, dtype="float32"
    )
    _, expected = await scores("transformers", model)
    method, found = await scores("vllm", model)
    assert method == "plugin"
    for one, reference in zip(found, expected, strict=True):
        assert one.logprobs.shape == reference.logprobs.shape
        assert np.abs(one.logprobs - reference.logprobs).max() <= TOLERANCE
        assert one.activations is not None
        assert reference.activations is not None
        assert np.allclose(one.activations, reference.activations, atol=1e-4, rtol=1e-3)
