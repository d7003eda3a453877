"""Trained weights on their way to disk: rounded to the base model's number format, written, and read back.

Owns the proof that what was written can be served; where it is written is `publish.py`'s business.
"""

from __future__ import annotations

import math
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from burnish_services.engine import rounding
from burnish_services.engine.base import ScoreRequest
from burnish_services.engine.canary import CANARY_TEXT, canary_ids, mean_nll
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.merging import merge, write_weights
from burnish_services.engine.models import copy_all_but_weights
from burnish_services.engine.torch_model import TorchModel
from burnish_services.training.state import RunError


def round_weights(model: torch.nn.Module, dtype: torch.dtype, seed: int) -> None:
    """As in `engine/rounding.py`. Raises RunError where a weight is not finite."""
    try:
        rounding.round_weights(model, dtype, seed)
    except rounding.NotFinite as error:
        raise RunError(
            "DATA_LOSS", "NOT_FINITE", f"{error}; nothing is published. Use a smaller learning_rate"
        ) from error


def write_model(model: Any, dtype: torch.dtype, base: Path, staging: Path) -> None:
    """Fills `staging` with the weights in `dtype` and everything else from `base`. Changes the model to `dtype`."""
    write_weights(model, dtype, staging)
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


def prove_adapter(staging: Path, base: Path, chat_template: str | None, room: Path) -> dict[str, object]:
    """As `prove`, of an adapter, which is merged into its base in `room`, as a service would. Raises OSError, too."""
    room.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=room) as folder:
        merge(base, staging, Path(folder))
        return prove(Path(folder), chat_template)
