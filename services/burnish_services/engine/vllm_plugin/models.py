"""The scoring model classes, each made from vLLM's own when it is first named: `models.BurnishLlamaForCausalLM`."""

from __future__ import annotations

from functools import cache
from typing import Any

from vllm import ModelRegistry
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces_base import VllmModelForPooling

from burnish_services.engine.vllm_plugin import PREFIX
from burnish_services.engine.vllm_plugin.pooler import ScoringPooler


def __getattr__(name: str) -> type[Any]:
    """The class of that name. Raises AttributeError where vLLM knows no such architecture without the prefix."""
    original = ModelRegistry.models.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if original is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _scoring_class(name, original.load_model_cls())


@cache
def _scoring_class(name: str, original: type[Any]) -> type[Any]:
    class ScoringModel(original, VllmModelForPooling):
        is_pooling_model = True

        def __init__(self, *, vllm_config: VllmConfig, prefix: str = "", **options: Any) -> None:
            parallel = vllm_config.parallel_config
            if parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1:
                raise ValueError(
                    "Burnish scores with the output head on one device, but tensor_parallel_size is "
                    f"{parallel.tensor_parallel_size} and pipeline_parallel_size {parallel.pipeline_parallel_size}; "
                    "set both to 1, or leave the plugin out (VLLM_PLUGINS=) to score by prompt_logprobs"
                )
            super().__init__(vllm_config=vllm_config, prefix=prefix, **options)
            model = vllm_config.model_config
            self.pooler = ScoringPooler(self.compute_logits, model.get_vocab_size(), compiled=not model.enforce_eager)

    ScoringModel.__name__ = ScoringModel.__qualname__ = name
    return ScoringModel
