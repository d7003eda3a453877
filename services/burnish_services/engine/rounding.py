"""Weights in float32 brought to the number format that they are stored in."""

from __future__ import annotations

import zlib

import torch

_LOW_BITS = 16  # that float32 has and bfloat16 has not


class NotFinite(ValueError):
    """A weight is no number in the format that it is to be stored in."""


@torch.no_grad()
def round_weights(model: torch.nn.Module, dtype: torch.dtype, seed: int) -> None:
    """Rounds float32 weights in place to numbers that `dtype` can hold.

    To bfloat16 stochastically: up or down with the probabilities that keep the mean. A short fine-tuning moves a
    weight by less than half the distance between two bfloat16 numbers; rounding to the nearest would throw nearly all
    of it away. The same seed gives the same bits. Raises NotFinite.
    """
    for name, parameter in model.named_parameters():
        if dtype is torch.bfloat16 and parameter.dtype is torch.float32:
            _round_stochastically(parameter, seed ^ zlib.crc32(name.encode()))
        elif dtype is not torch.float32:
            parameter.copy_(parameter.to(dtype))
        if not torch.isfinite(parameter).all():
            raise NotFinite(f"weight {name} holds numbers that are not finite in {dtype}")


def _round_stochastically(parameter: torch.Tensor, seed: int) -> None:
    generator = torch.Generator(parameter.device).manual_seed(seed)
    bits = parameter.view(torch.int32)
    noise = torch.randint(
        0, 1 << _LOW_BITS, bits.shape, generator=generator, dtype=torch.int32, device=parameter.device
    )
    # Numbers are sign and magnitude: a carry out of the low bits moves away from zero by one bfloat16 number.
    bits.add_(noise).bitwise_and_(-1 << _LOW_BITS)
