"""Trained weights on their way to disk: rounded to the base model's number format, written, and read back.

Owns the rounding and the proof that what was written can be served; where it is written is `publish.py`'s business.
"""

from __future__ import annotations

import json
import math
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import torch

from burnish_services.engine.base import ModelLoadError, ScoreRequest
from burnish_services.engine.canary import CANARY_TEXT, canary_ids, mean_nll
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.torch_model import TorchModel
from burnish_services.training.publish import copy_all_but_weights
from burnish_services.training.state import RunError

_FORMATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_LOW_BITS = 16  # that float32 has and bfloat16 has not


def stored_dtype(base: Path) -> torch.dtype:
    """The number format of most of a model's stored weights. Raises ModelLoadError for one that is not trained here."""
    sizes: dict[str, int] = {}
    for path in sorted(base.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + math.prod(tensor["shape"])
    common = max(sizes, key=lambda name: sizes[name])
    if common not in _FORMATS:
        raise ModelLoadError(f"the weights in {base} are stored as {common}; expected one of {', '.join(_FORMATS)}")
    return _FORMATS[common]


@torch.no_grad()
def round_weights(model: torch.nn.Module, dtype: torch.dtype, seed: int) -> None:
    """Rounds float32 weights in place to numbers that `dtype` can hold.

    To bfloat16 stochastically: up or down with the probabilities that keep the mean. A short fine-tuning moves a
    weight by less than half the distance between two bfloat16 numbers; rounding to the nearest would throw nearly all
    of it away. The same seed gives the same bits. Raises RunError where a weight is not finite.
    """
    for name, parameter in model.named_parameters():
        if dtype is torch.bfloat16 and parameter.dtype is torch.float32:
            _round_stochastically(parameter, seed ^ zlib.crc32(name.encode()))
        elif dtype is not torch.float32:
            parameter.copy_(parameter.to(dtype))
        if not torch.isfinite(parameter).all():
            raise RunError(
                "DATA_LOSS",
                "NOT_FINITE",
                f"weight {name} holds numbers that are not finite in {dtype}; nothing is published. Use a smaller "
                "learning_rate",
            )


def _round_stochastically(parameter: torch.Tensor, seed: int) -> None:
    generator = torch.Generator(parameter.device).manual_seed(seed)
    bits = parameter.view(torch.int32)
    noise = torch.randint(
        0, 1 << _LOW_BITS, bits.shape, generator=generator, dtype=torch.int32, device=parameter.device
    )
    # Numbers are sign and magnitude: a carry out of the low bits moves away from zero by one bfloat16 number.
    bits.add_(noise).bitwise_and_(-1 << _LOW_BITS)


def write_model(model: Any, dtype: torch.dtype, base: Path, staging: Path) -> None:
    """Fills `staging` with the weights in `dtype` and everything else from `base`. Changes the model to `dtype`."""
    model.to(dtype).save_pretrained(staging)
    for path in staging.glob("*.safetensors"):
        path.chmod(0o644)
    copy_all_but_weights(base, staging)


def prove(staging: Path, chat_template: str | None) -> dict[str, object]:
    """Reads the written model as an engine would, and returns the canary for its card. Raises ModelLoadError, and
    RunError where the model's answers are not finite."""
    ids = canary_ids(HfTokenizer(staging, chat_template))
    (scores,) = TorchModel(staging).score([ScoreRequest(ids)], threading.Event())
    found = mean_nll(scores.logprobs)
    if not math.isfinite(found):
        raise RunError("DATA_LOSS", "NOT_FINITE", "the trained model's answers are not finite; nothing is published")
    return {"text": CANARY_TEXT, "mean_nll": found}
