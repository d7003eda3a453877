"""What a model's configuration says of the language model in it. Read in one way for every engine and for training, so
that a sample is as long to the one as to the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from burnish_services.engine.untrusted import NO_CODE, cannot_load

_DEFAULT_CONTEXT = 2048  # where a model states none; vLLM takes it too
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
_LONGROPE = ("longrope", "su")
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def read_text_config(directory: Path) -> Any:
    """The configuration of the model that reads and writes text, which may be a part of a larger one's. Raises
    ModelLoadError."""
    try:
        whole = AutoConfig.from_pretrained(str(directory), **NO_CODE)
        text = whole.get_text_config(decoder=True)
    except Exception as error:  # transformers raises anything here, from KeyError to OSError
        raise cannot_load("the configuration", directory, error) from error
    if getattr(text, "dtype", None) is None:
        text.dtype = whole.dtype
    return text


def model_context(config: Any) -> int:
    """The longest sequence that a model was made for, in tokens; 2,048 where its configuration states none. With
    LongRoPE the longest that is read with the short factors: where longer ones are allowed vLLM reads every text with
    the long factors, and training does not."""
    stated = [*(getattr(config, name, None) for name in _CONTEXTS), short_factors_context(config)]
    return min((int(one) for one in stated if one), default=_DEFAULT_CONTEXT)


def short_factors_context(config: Any) -> int | None:
    """With LongRoPE, the length in tokens up to which its short factors hold; None with other positions."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # One for all layers, or one for each kind of layer.
    for one in (rope, *rope.values()):
        if isinstance(one, Mapping) and (one.get("rope_type") or one.get("type")) in _LONGROPE:
            stated = getattr(config, "original_max_position_embeddings", None)
            stated = stated or one.get("original_max_position_embeddings")
            return int(stated) if stated else None
    return None


def cache_bytes_per_token(config: Any, dtype: str) -> int:
    """Bytes of keys and values that a token takes, as far as a model's configuration tells."""
    stated = str(getattr(config, "dtype", None)).removeprefix("torch.") if dtype == "auto" else dtype
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_size = int(getattr(config, "head_dim", None) or int(getattr(config, "hidden_size", None) or heads) // heads)
    layers = int(getattr(config, "num_hidden_layers", None) or 1)
    return 2 * layers * key_heads * head_size * _BYTES.get(stated, 4)
