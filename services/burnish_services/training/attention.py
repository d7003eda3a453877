"""Attention in packed batches, on a GPU: flash attention over the samples as they lie, and nothing between them.

Elsewhere transformers sees from the positions where samples begin and masks the rest, which takes a mask of (tokens,
tokens) and computes what it masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from burnish_services.engine.number_formats import has_bfloat16

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None

NAME = "burnish_packed"
_PARAMETERS = {} if varlen_attn is None else inspect.signature(varlen_attn).parameters
# Newer releases want to be told that a key has several queries' heads; what they call takes it either way.
_GROUPED = {"enable_gqa": True} if "enable_gqa" in _PARAMETERS else {}
# What a model may ask of its attention besides, by the names in its configuration.
_OTHERS = ("sliding_window", "attention_chunk_size", "attn_logit_softcapping", "attention_dropout", "attn_pdrop")


def use_packed(model: Any) -> None:
    """Has a model on its way to a GPU attend by this module, where model and torch allow it. It makes no masks then:
    its batches must be padded on the right, or come with `packed_arguments`."""
    config = model.config.get_text_config()
    is_plain = model._supports_attention_backend and not any(getattr(config, name, None) for name in _OTHERS)
    # Its kernels take bfloat16 alone of the formats that are trained in, and want a GPU that has it.
    if torch.cuda.is_available() and has_bfloat16() and is_plain and "window_size" in _PARAMETERS:
        model.set_attn_implementation(NAME)


def packed_arguments(config: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is given with a packed batch of `loss.collate`; nothing where it attends in another way."""
    if "starts" not in batch or config._attn_implementation != NAME:
        return {}
    return {"cu_seq_lens_q": batch["starts"], "max_length_q": batch["longest"]}


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: queries and the like are (batch, heads, tokens, features), heads of keys and values
    fewer or as many; the result is (batch, tokens, heads, features)."""
    starts = others.get("cu_seq_lens_q")
    if starts is None:
        attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return attended
    # Rotation may have made float32 of queries and keys; values are as autocast has them.
    states = [state[0].transpose(0, 1).to(value.dtype) for state in (query, key, value)]
    longest = others["max_length_q"]
    packed = varlen_attn(*states, starts, starts, longest, longest, scale=scaling, window_size=(-1, 0), **_GROUPED)
    return packed[None], None


AttentionInterface.register(NAME, attend)
