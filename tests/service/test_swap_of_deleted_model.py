"""A run that keeps its last model only deletes the others while a service may still hold one of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from burnish_services.engine.base import EngineSettings, ModelMismatch, ScoreRequest, Task, TokenScores
from burnish_services.engine.factory import create_engine
from burnish_services.engine.model_digests import model_digest
from tests.tiny_model import write_tiny_model


@pytest.mark.engine
async def test_weights_are_swapped_though_those_held_are_gone(tmp_path: Path) -> None:
    """Of vLLM test_vllm_engine.py tells."""
    held = write_tiny_model(tmp_path / "held", seed=0, head_dim=32)
    wanted = write_tiny_model(tmp_path / "wanted", seed=1, head_dim=32)
    other = write_tiny_model(tmp_path / "other", head_dim=64)
    engine = create_engine("transformers", EngineSettings(str(held), Task.GENERATE, dtype="float32"))
    await engine.start()
    try:
        (before,) = await engine.score([ScoreRequest([5, 6, 7, 8])])
        shutil.rmtree(held)
        await engine.swap(str(wanted), model_digest(wanted))
        (after,) = await engine.score([ScoreRequest([5, 6, 7, 8])])
        assert isinstance(before, TokenScores)
        assert isinstance(after, TokenScores)
        assert before.logprobs.tolist() != after.logprobs.tolist()
        with pytest.raises(ModelMismatch, match="head_dim"):
            await engine.swap(str(other), model_digest(other))
    finally:
        await engine.close()
