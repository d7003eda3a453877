"""The vLLM engine: the product's own. The only place that imports vllm.

`environment.py` sets what vLLM reads from the environment and must run first; `client.py` is the one module that
imports vllm, when the engine starts; `engine.py` is the Engine protocol.
"""

from burnish_services.engine.vllm_engine.engine import VllmEngine

__all__ = ["VllmEngine"]
