"""vLLM without Burnish, at its best settings on this machine."""

from __future__ import annotations

from typing import Any


def offline(model: str, *, context: int, compiled: bool, **options: Any) -> Any:
    """vLLM's own `LLM`, with all cores computing, which is not its default."""
    from burnish_services.engine.vllm_engine import environment

    environment.prepare()
    with environment.for_children(environment.bound_cores(None)):
        from vllm import LLM

        return LLM(
            model,
            dtype="bfloat16",
            max_model_len=context + 1,
            enforce_eager=not compiled,
            seed=0,
            disable_log_stats=True,
            **options,
        )
