"""A vLLM plugin: any causal language model as one that scores given texts, in one pass and without leaving the device.

vLLM finds `register` by the entry point group `vllm.general_plugins` in each of its processes. For every architecture
`XForCausalLM` that vLLM knows there is then one more, `BurnishXForCausalLM`, which runs under the pooling runner with
the same weights and keeps its output head (`models.py`). Its pooler (`pooler.py`) turns hidden states into what a
request asked for (`asked.py`): the given tokens' log-probabilities, those of a few candidates for the next token, a
mean hidden state, what the feed-forward neurons did. What vLLM offers itself, `prompt_logprobs`, holds tokens ×
vocabulary logits several times over, ranks them, ships an object per token, and reads no cached prefix.
"""

from __future__ import annotations

PREFIX = "Burnish"
TASK = "token_classify"  # of vLLM's pooling tasks, the one that hands over every token
_SUFFIX = "ForCausalLM"
_MODELS = "burnish_services.engine.vllm_plugin.models"


def register() -> None:
    """Makes the architectures known to vLLM, by name only: nothing is imported until one is asked for. Safe to call
    twice."""
    from vllm import ModelRegistry

    known = frozenset(ModelRegistry.get_supported_archs())
    for name in known:
        scoring = PREFIX + name
        if name.endswith(_SUFFIX) and not name.startswith(PREFIX) and scoring not in known:
            ModelRegistry.register_model(scoring, f"{_MODELS}:{scoring}")
