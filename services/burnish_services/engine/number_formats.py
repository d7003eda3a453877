"""Which number formats the device multiplies itself."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def has_bfloat16() -> bool:
    """Whether bfloat16 is multiplied by the device's own instructions: of GPUs NVIDIA's from Ampere on, of CPUs those
    whose oneDNN has kernels for it, from AVX-512 on. Else torch emulates them."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def format_to_compute_in(dtype: str) -> str:
    """`dtype`, or float32 where it is `auto` and a CPU can only emulate the 16 bits that models are stored in: twice
    the memory, and a tenth of the time and less."""
    if dtype != "auto" or torch.cuda.is_available() or has_bfloat16():
        return dtype
    return "float32"


def check_format(dtype: str) -> None:
    """Warns of a device that can only emulate products in a number format."""
    on_gpu = torch.cuda.is_available()
    if dtype == "float32" or (dtype == "mixed" and on_gpu) or has_bfloat16():  # on such a GPU `mixed` is float32
        return
    log.warning(
        "dtype is %s, and this %s cannot multiply bfloat16 itself, which makes it %s than float32; train in float32"
        " here, or on a CPU with AVX-512 BF16 or AMX, or on a GPU that has bfloat16 (NVIDIA's: Ampere and later)",
        dtype,
        *(("GPU", "slower") if on_gpu else ("CPU", "up to 50 times slower")),
    )
