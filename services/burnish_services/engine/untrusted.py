"""How transformers is let read a model directory, which is data and no program: weights as safetensors only, since a
pickle runs what it likes, and no code of the model's own. Every `from_pretrained` takes one of these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.models import read_json

NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
SAFE_WEIGHTS: dict[str, Any] = {**NO_CODE, "use_safetensors": True}


def cannot_load(what: str, directory: Path | str, error: Exception) -> ModelLoadError:
    """The error for `what` of a model that transformers could not load. Where that may be for want of the model's own
    code, transformers advises to trust it; this says that it is never run."""
    for name in ("config.json", "tokenizer_config.json"):
        if _names_code(Path(directory) / name):
            return ModelLoadError(
                f"{what} in {directory} cannot be loaded ({type(error).__name__}): its {name} names code of the model's"
                " own (auto_map), which is never run; expected a model that the installed transformers knows by itself"
            )
    return ModelLoadError(f"{what} in {directory} cannot be loaded: {error!r}")


def whole(loaded: tuple[Any, Mapping[str, Any]], directory: Path | str) -> Any:
    """The model of what `from_pretrained` gives with `output_loading_info`. Raises ModelLoadError where its files lack
    tensors: transformers makes them up at random, and says so in its log alone."""
    model, told = loaded
    lacking = sorted(told["missing_keys"])
    if lacking:
        raise ModelLoadError(
            f"the weights in {directory} lack {len(lacking)} of the tensors that {type(model).__name__} has, such as"
            f" {lacking[0]}; expected all of them: look for a file that is missing"
        )
    return model


def _names_code(path: Path) -> bool:
    try:
        return bool(read_json(path).get("auto_map"))
    except ModelLoadError:
        return False
