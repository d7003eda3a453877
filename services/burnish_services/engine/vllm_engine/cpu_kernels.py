"""vLLM's own C++ kernels for normalisation and activation, which on a CPU it leaves aside for compiled code.

Eager, it walks through these layers one PyTorch operation after another, each over all of memory: two fifths of a
forward pass of a small model. The kernels are in its binary all the same, and their results agree to the last bits of
float32. Layers of other kinds or shapes are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm

Forward = Callable[..., Any]


def use_kernels(model: torch.nn.Module) -> int:
    """Has the model's layers use the kernels; returns how many do."""
    kernels = getattr(torch.ops, "_C", None)
    if kernels is None or not all(
        hasattr(kernels, name) for name in ("rms_norm", "fused_add_rms_norm", "silu_and_mul")
    ):
        return 0
    replaced = 0
    for layer in model.modules():
        # Subclasses compute something else.
        if type(layer) is RMSNorm and layer.has_weight and layer.variance_size_override is None:
            layer._forward_method = _rms_norm(layer, layer._forward_method)
            replaced += 1
        elif type(layer) is SiluAndMul:
            layer._forward_method = _silu_and_mul
            replaced += 1
    return replaced


def _rms_norm(layer: RMSNorm, original: Forward) -> Forward:
    def forward(x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        weight = layer.weight.data  # new weights come in place, but may be a new tensor
        flat = x.dim() == 2 and x.is_contiguous() and (residual is None or residual.is_contiguous())
        if not flat or weight.dtype != x.dtype:
            return original(x, residual)
        if residual is None:
            normal = torch.empty_like(x)
            torch.ops._C.rms_norm(normal, x, weight, layer.variance_epsilon)
            return normal
        # In place, as vLLM's own call allows.
        torch.ops._C.fused_add_rms_norm(x, residual, weight, layer.variance_epsilon)
        return x, residual

    return forward


def _silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    out = x.new_empty((*x.shape[:-1], x.shape[-1] // 2))
    torch.ops._C.silu_and_mul(out, x.contiguous())
    return out
