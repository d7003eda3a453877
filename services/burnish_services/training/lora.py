"""Low-rank adapters: put into a model before it is trained, and merged into its weights, or taken out alone, when it is
published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from burnish_services.training.core import Lora
from burnish_services.training.state import RunError


def add_adapters(model: Any, lora: Lora, seed: int) -> PeftModel:
    """The model with adapters of which the second factor is 0, so that it answers as before; all else is frozen.
    Raises RunError where it has no layers of the names asked for."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.split(".")[-1] for name, part in model.named_modules() if _is_linear(part)})
        raise RunError(
            "INVALID_ARGUMENT",
            "BAD_TARGET_MODULES",
            f"lora.target_modules: {', '.join(lora.target_modules)} cannot be adapted ({error}); this model's linear "
            f"layers are {', '.join(names)}",
        ) from error
    # Where activations are recomputed, their gradient must have somewhere to start from though the inputs are frozen.
    adapted.enable_input_require_grads()
    return adapted


def merge_adapters(model: Any) -> Any:
    """The model with its adapters added to its weights, in float32, so that small updates are not rounded away here;
    one without adapters as it is."""
    if not isinstance(model, PeftModel):
        return model
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # as whoever merges them later does
    try:
        return model.float().merge_and_unload()
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True, slots=True)
class Adapters:
    """Adapters apart from their model."""

    config: LoraConfig
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, model: PeftModel, base: Path) -> Adapters:
        """A copy of those in a model, for the base model in `base`."""
        (config,) = model.peft_config.values()
        taken = get_peft_model_state_dict(model)
        return cls(
            replace(config, base_model_name_or_path=str(base), inference_mode=True),
            {name: weight.detach().cpu().clone().contiguous() for name, weight in taken.items()},
        )

    def write(self, folder: Path) -> None:
        """Writes them in peft's layout. Raises OSError."""
        self.config.save_pretrained(folder)
        save_file(self.weights, folder / SAFETENSORS_WEIGHTS_NAME)


def _is_linear(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Linear)
