"""Packed samples by flash attention, whose kernel is played by plain attention here: it runs on GPUs only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish_services.training.data import TrainingSample
from tests.service.sft.test_training_loss import load, measure, samples

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.light]
__all__ = ["samples"]


def plain_attention(
    query: Any, key: Any, value: Any, starts: Any, key_starts: Any, longest: int, key_longest: int, **others: Any
) -> Any:
    """As torch's `varlen_attn`: (tokens, heads, features), one sample after the other."""
    import torch

    assert others["window_size"] == (-1, 0)
    lengths = starts.diff().tolist()
    assert (max(lengths), sum(lengths)) == (longest, len(query))
    split = ([part.transpose(0, 1)[None] for part in states.split(lengths)] for states in (query, key, value))
    attended = (
        torch.nn.functional.scaled_dot_product_attention(*qkv, is_causal=True, scale=others["scale"], enable_gqa=True)
        for qkv in zip(*split, strict=True)
    )
    return torch.cat([one[0].transpose(0, 1) for one in attended])


def test_flash_attention_is_told_where_samples_begin(
    base: Path, samples: list[TrainingSample], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from burnish_services.training import attention

    masked = measure(load(base), samples, packing=True)
    model = load(base)
    monkeypatch.setattr(attention, "varlen_attn", plain_attention)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "has_bfloat16", lambda: True)
    attention.use_packed(model)
    assert model.config._attn_implementation == attention.NAME
    for packing in (True, False):
        found = measure(model, samples, packing=packing)
        torch.testing.assert_close(found[0], masked[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[2], masked[2], atol=1e-4, rtol=1e-4)


def test_a_model_that_wants_more_than_causal_attention_keeps_its_own(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from burnish_services.training import attention

    model = load(base)
    attention.use_packed(model)  # where there is no GPU
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "has_bfloat16", lambda: True)
    model.config.sliding_window = 4
    attention.use_packed(model)
    assert model.config._attn_implementation == "sdpa"
