"""The plugin's pooler, where it does not need an engine around it."""

from __future__ import annotations

import pytest
import torch
from torch._inductor import config
from torch._inductor.utils import fresh_cache

from burnish_services.engine.vllm_plugin import head
from burnish_services.engine.vllm_plugin.head import Head
from burnish_services.engine.vllm_plugin.pooler import ScoringPooler


def test_without_a_compiler_the_head_scores_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hidden, weight = torch.randn(5, 8), torch.randn(100, 8)
    targets = torch.arange(5)
    pooler = ScoringPooler(lambda rows: rows @ weight.T, 100, lambda: Head(weight), compiled=True)
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    head._compiled_sum.cache_clear()
    torch._dynamo.reset()
    try:
        with fresh_cache():
            pooler._warm_up(hidden)
    finally:
        head._compiled_sum.cache_clear()
        torch._dynamo.reset()
    assert "the head is not compiled" in caplog.text
    wanted = (hidden @ weight.T).log_softmax(dim=1).gather(1, targets[:, None])
    torch.testing.assert_close(pooler._score(hidden, targets, distribution=False), wanted, rtol=1e-5, atol=1e-5)
