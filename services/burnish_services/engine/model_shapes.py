"""Whether two models fit one running engine: weights into its memory, and how they compute to what is built in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish_services.engine.base import ModelMismatch
from burnish_services.engine.model_config import read_text_config
from burnish_services.engine.model_digests import tensor_shapes
from burnish_services.engine.models import read_json

Tensors = Counter[tuple[int, ...]]  # how many there are of each shape

# What must agree for one model's weights to fit into another's memory.
_SHAPE_KEYS = (
    "model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "num_experts", "num_local_experts",
)  # fmt: skip
# What, beside the weights, an engine may build in once; where both of two models say it, they must say the same.
_BUILT_IN = (
    "rope_theta", "partial_rotary_factor", "rms_norm_eps", "layer_norm_eps", "norm_eps", "hidden_act",
    "hidden_activation", "sliding_window", "use_sliding_window", "layer_types", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping",
)  # fmt: skip
# Computed anew by whoever loads a model.
_BUFFERS = (".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias")
# Rotary positions that are called otherwise elsewhere.
_SAME_ROPE = {"su": "longrope", "mrope": "default"}


def shape_of(directory: Path) -> dict[str, Any]:
    """What a model's configuration says of its weights' shapes. Raises ModelLoadError where it cannot be read."""
    config = read_json(directory / "config.json")
    return {key: config.get(key) for key in _SHAPE_KEYS}


def check_same_shape(held: Mapping[str, Any], wanted: Path) -> None:
    """Raises ModelMismatch where the weights in `wanted` have another shape than those that are held, whose own
    directory may be gone by now."""
    new = shape_of(wanted)
    differences = [f"{key} is {new[key]!r}, expected {value!r}" for key, value in held.items() if value != new[key]]
    if differences:
        raise ModelMismatch(
            f"weights in {wanted} do not fit the running engine: {'; '.join(differences)}. "
            "Start another server for this architecture"
        )


def tensors_of(directory: Path) -> Tensors:
    """How many tensors of each shape a model's files hold. By shape, since one model is named in several ways; without
    what not every writer stores: buffers, heads that are tied, and layers that only guess tokens ahead. Raises
    ModelLoadError."""
    config = read_text_config(directory)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return Counter(
        shape for name, shape in tensor_shapes(directory).items() if not _is_optional(name, layers, tied=tied)
    )


def check_same_tensors(held: Tensors, wanted: Path) -> None:
    """Raises ModelMismatch where the files in `wanted` hold other tensors than those that are held: loaded in place,
    they would leave an engine with some of either, or with none."""
    new = tensors_of(wanted)
    told = [
        f"{found.total()} {what}, such as one of {list(next(iter(found)))}"
        for found, what in ((held - new, "are lacking"), (new - held, "have no place"))
        if found
    ]
    if told:
        raise ModelMismatch(
            f"the tensors in {wanted} are not those of the running engine: {'; '.join(told)}. Expected a model of the"
            " same architecture, whole and not quantised otherwise; start another server for this one"
        )


def _is_optional(name: str, layers: int, *, tied: bool) -> bool:
    layer = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
    ahead = (layer is not None and layers and int(layer[1]) >= layers) or "mtp." in name
    return bool(ahead) or name.endswith(_BUFFERS) or (tied and name.endswith("lm_head.weight"))


def built_in_of(directory: Path) -> dict[str, Any]:
    """What a model's configuration says of how it computes, beside its weights, as far as it says anything. Raises
    ModelLoadError where it cannot be read."""
    config = read_json(directory / "config.json")
    inner = config.get("text_config")
    text = config | inner if isinstance(inner, dict) else config
    found = {key: text[key] for key in _BUILT_IN if text.get(key) is not None}
    if found.get("use_sliding_window") is False:
        found.pop("sliding_window", None)
    told = text.get("rope_parameters") or text.get("rope_scaling")
    return found | _rope_of(told if isinstance(told, dict) else {})


def _rope_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of rotary positions, in transformers' older way or in that of its version 5; by type of
    layer, where layers have their own."""
    if any(isinstance(one, dict) for one in told.values()):
        layers = {layer: one for layer, one in told.items() if isinstance(one, dict)}
        return {f"rope {layer} {key}": one[key] for layer, one in layers.items() for key in one if key != "type"}
    kind = told.get("rope_type") or told.get("type") or "default"
    apart = ("rope_theta", "partial_rotary_factor")  # which stand outside in the older way
    named = {key: value for key, value in told.items() if value is not None and key not in ("type", "rope_type")}
    return {"rope type": _SAME_ROPE.get(kind, kind)} | {
        key if key in apart else f"rope {key}": value for key, value in named.items()
    }


def check_same_built_in(held: Mapping[str, Any], wanted: Path) -> None:
    """Raises ModelMismatch where the model in `wanted` computes otherwise than an engine that has `held` built in."""
    new = built_in_of(wanted)
    both = sorted(held.keys() & new.keys())
    differences = [f"{key} is {new[key]!r}, expected {held[key]!r}" for key in both if held[key] != new[key]]
    if differences:
        raise ModelMismatch(
            f"the model in {wanted} computes otherwise than the running engine, which changes weights alone:"
            f" {'; '.join(differences)}. Start another server for this model"
        )
