"""An adapter and its base model, made one model on disk. Brings torch, transformers and peft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.model_digests import stored_format
from burnish_services.engine.models import ADAPTER_FILE, copy_all_but_weights, read_json
from burnish_services.engine.rounding import NotFinite, round_weights
from burnish_services.engine.untrusted import SAFE_WEIGHTS, whole

FORMATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_WEIGHTS = "adapter_model.safetensors"
SEED = 0  # of the rounding: whoever merges an adapter gets the same weights


def merge(base: Path, adapter: Path, into: Path) -> None:
    """Fills the empty directory `into` with the base model's weights, the adapter's added in float32 and rounded to the
    base's number format, and all else of the base. Takes 4 bytes of memory for each weight. Raises ModelLoadError,
    OSError."""
    kind = read_json(adapter / ADAPTER_FILE).get("peft_type")
    if kind != "LORA":  # others name further files, which nobody has looked at
        raise ModelLoadError(f"the adapter in {adapter} has peft_type {str(kind)[:100]!r}; expected 'LORA'")
    if not (adapter / _WEIGHTS).is_file():  # or peft would take pickled ones
        raise ModelLoadError(f"the adapter in {adapter} holds no {_WEIGHTS}, where its weights were expected")
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            str(base), dtype=torch.float32, output_loading_info=True, **SAFE_WEIGHTS
        )
        model = whole(loaded, base)
        merged: Any = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).merge_and_unload()
    except (OSError, ModelLoadError):
        raise
    except Exception as error:  # transformers and peft raise anything here
        raise ModelLoadError(f"the adapter in {adapter} does not fit its base {base}: {error!r}") from error
    dtype = stored_dtype(base)
    try:
        round_weights(merged, dtype, SEED)
    except NotFinite as error:
        raise ModelLoadError(f"the adapter in {adapter}: {error}") from error
    write_weights(merged, dtype, into)
    copy_all_but_weights(base, into)


def stored_dtype(base: Path) -> torch.dtype:
    """The number format of most of a model's stored weights. Raises ModelLoadError for one that is not known here."""
    found = stored_format(base)
    if found not in FORMATS:
        raise ModelLoadError(f"the weights in {base} are stored as {found}; expected one of {', '.join(FORMATS)}")
    return FORMATS[found]


def write_weights(model: Any, dtype: torch.dtype, into: Path) -> None:
    """Writes the weights in `dtype`, which everybody may read. Changes the model to `dtype`."""
    model.to(dtype).save_pretrained(into)
    for path in into.glob("*.safetensors"):
        path.chmod(0o644)
