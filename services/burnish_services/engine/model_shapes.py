"""Whether two models fit one running engine: weights into its memory, and how they compute to what is built in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish_services.engine.base import ModelMismatch
from burnish_services.engine.model_config import read_text_config
from burnish_services.engine.model_digests import tensor_shapes
from burnish_services.engine.models import CARD_FILE, read_json

Tensors = dict[str, tuple[int, ...]]  # shapes by name

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
_PREFIX = re.compile(r"^(?:(?:model|language_model|transformer)\.)+")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
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
    """The shape of every tensor in a model's files, by name without what its writers put before all names, and without
    what is computed anew by whoever loads it. Raises ModelLoadError."""
    shapes = tensor_shapes(directory)
    return {_PREFIX.sub("", name): shape for name, shape in shapes.items() if not name.endswith(_BUFFERS)}


def check_same_tensors(held: Tensors, wanted: Path) -> None:
    """Raises ModelMismatch where the files in `wanted` hold no whole model of the kind that is held: loaded in place,
    they would leave an engine with some tensors of either. Whole parts that only one of both has, such as a tower for
    pictures, tell nothing: not every writer keeps them."""
    new = tensors_of(wanted)
    both = held.keys() & new.keys()
    told = [f"{name} is {list(new[name])}, expected {list(held[name])}" for name in both if new[name] != held[name]]
    told += [f"{name} is lacking" for name in _lacking(held, new, wanted)]
    told += [f"{name} has no place" for name in _without(new, held, ".bias")]
    if told:
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        raise ModelMismatch(
            f"the tensors in {wanted} are not those of the running engine: {min(told)}{more}. Expected a model of the"
            " same architecture, whole and not quantised otherwise; start another server for this one"
        )


def _lacking(held: Tensors, new: Tensors, wanted: Path) -> list[str]:
    """The tensors that a model has in some of its layers and lacks in others, as where a file is lost; biases of
    tensors that it has; and its head, where that is no other tensor. What training published is whole."""
    config = read_text_config(wanted)
    if (wanted / CARD_FILE).is_file():
        return []
    found = _without(held, new, ".bias")
    if not getattr(config, "num_kv_shared_layers", 0):
        kinds = {_LAYER.sub(".#.", name) for name in new if _LAYER.search(name)}
        layers = int(getattr(config, "num_hidden_layers", 0) or 0)
        for name in held.keys() - new.keys():
            layer = _LAYER.search(name)
            # Layers beyond the last guess tokens ahead.
            if layer and int(layer[1]) < layers and _LAYER.sub(".#.", name) in kinds:
                found.append(name)
    if not getattr(config, "tie_word_embeddings", False):
        found += [name for name in held.keys() - new.keys() if name == "lm_head.weight"]
    return found


def _without(some: Tensors, others: Tensors, suffix: str) -> list[str]:
    """The tensors of this kind that `others` lack, though they have what these belong to."""
    lacking = (name for name in some.keys() - others.keys() if name.endswith(suffix))
    return [name for name in lacking if f"{name.removesuffix(suffix)}.weight" in others]


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
