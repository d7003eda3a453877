"""What engine settings mean: core lists, context lengths, sizes of caches. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish_services.engine.base import ModelLoadError

_DEFAULT_CONTEXT = 2048  # where a model states none
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def count_cores(cores: str) -> int:
    """How many cores a list such as `0-1,4` names. Raises ValueError where it is no such list."""
    return len(parse_cores(cores))


def parse_cores(cores: str) -> tuple[int, ...]:
    """The cores that a list such as `0-1,4` names, in order. Raises ValueError where it is no such list."""
    found: set[int] = set()
    for part in cores.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 1, 0
        if low > high:
            raise ValueError(f"{cores!r} is not a list of cores; expected something like 0-1 or 0,2,4-7")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def context_length(wanted: int | None, of_model: int) -> int:
    """Longest sequence in tokens. Raises ModelLoadError where more is wanted than the model was made for."""
    if wanted is None:
        return of_model
    if not 2 <= wanted <= of_model:
        raise ModelLoadError(
            f"a context of {wanted} tokens was asked for; expected 2 to {of_model}, the model's own limit"
        )
    return wanted


def model_context(config: Mapping[str, Any]) -> int:
    """The context, in tokens, that a model's config.json states."""
    text = config.get("text_config", config)
    return int(text.get("max_position_embeddings") or _DEFAULT_CONTEXT)


def cache_bytes_per_token(config: Mapping[str, Any], dtype: str) -> int:
    """Bytes of keys and values that a token takes, as far as a model's config.json tells."""
    text = config.get("text_config", config)
    stated = text.get("dtype") or text.get("torch_dtype") or config.get("dtype")
    size = _BYTES.get(str(stated) if dtype == "auto" else dtype, 4)
    heads = int(text.get("num_attention_heads") or 1)
    key_heads = int(text.get("num_key_value_heads") or heads)
    head_size = int(text.get("head_dim") or int(text.get("hidden_size") or heads) // heads)
    return 2 * int(text.get("num_hidden_layers") or 1) * key_heads * head_size * size
