"""The scoring model classes, each made from vLLM's own when it is first named: `models.BurnishLlamaForCausalLM`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from vllm import ModelRegistry
from vllm.config import CompilationMode, VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod, VocabParallelEmbedding
from vllm.model_executor.models.interfaces_base import VllmModelForPooling

from burnish_services.engine.neurons import NeuronRecorder
from burnish_services.engine.vllm_plugin import PREFIX
from burnish_services.engine.vllm_plugin.head import Head
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
            compiled = vllm_config.compilation_config.mode != CompilationMode.NONE
            self.pooler = ScoringPooler(
                self.compute_logits,
                vllm_config.model_config.get_vocab_size(),
                lambda: plain_head(self),
                # A compiled pass calls no hooks.
                None if compiled else NeuronRecorder(self),
                compiled=compiled,
            )

    ScoringModel.__name__ = ScoringModel.__qualname__ = name
    return ScoringModel


def plain_head(model: Any) -> Head | None:
    """The head's own numbers, as they are now, where it is a plain matrix that the usual processor applies; None where
    it is anything else. What a model does beyond that shows when its scores are compared (`pooler.py`)."""
    layer: Any = getattr(model, "lm_head", None)
    processor: Any = getattr(model, "logits_processor", None)
    if layer is None:  # tied to the embedding, as Gemma's
        layer = getattr(getattr(model, "model", None), "embed_tokens", None)
    if type(processor) is not LogitsProcessor or not isinstance(layer, VocabParallelEmbedding):
        return None
    if not isinstance(layer.quant_method, UnquantizedEmbeddingMethod) or processor.logits_as_input:
        return None
    bias: torch.Tensor | None = getattr(layer, "bias", None)
    size = processor.org_vocab_size
    return Head(layer.weight[:size], None if bias is None else bias[:size], processor.scale, processor.soft_cap)
