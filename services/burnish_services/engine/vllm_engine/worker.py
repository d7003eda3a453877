"""What runs inside vLLM's worker process: whole reloads, speed on a CPU, and an end when the server is gone."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

if TYPE_CHECKING:
    from burnish_services.engine.neurons import NeuronRecorder

_WATCH_SECONDS = 1.0


class Worker:
    """Mixed into vLLM's worker class; its methods are called by `collective_rpc`."""

    model_runner: Any
    vllm_config: Any

    def burnish_prepare(self) -> tuple[int, int] | None:
        """Watches for the parent's end, and speeds up an eager model on a CPU. Returns the shape of the neurons whose
        activations can be had: (layers, neurons of each)."""
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="burnish-parent-watch").start()
        if current_platform.is_cpu() and self.vllm_config.model_config.enforce_eager:
            # Not above: the server names this module too, and need not load vLLM's layers and threads for that.
            from burnish_services.engine.vllm_engine.cpu_kernels import use_kernels

            use_kernels(self.model_runner.get_model())
        recorder = self._recorder()
        return None if recorder is None else recorder.shape

    def burnish_record(self, on: bool) -> None:
        """Has the inputs of all down projections kept during a step, or no more."""
        recorder = self._recorder()
        assert recorder is not None
        if on:
            recorder.start()
        else:
            recorder.stop()

    def _recorder(self) -> NeuronRecorder | None:
        return getattr(getattr(self.model_runner.get_model(), "pooler", None), "recorder", None)

    def burnish_reload(self, weights_path: str) -> None:
        """Replaces all weights by those in the directory `weights_path`, the tied output head included: vLLM 0.32
        leaves it as it was, since the checkpoint has no tensor of its name, and on a CPU it computes with a packed
        copy of the old weights."""
        self.model_runner.reload_weights(weights_path=weights_path)
        model = self.model_runner.get_model()
        head, body = getattr(model, "lm_head", None), getattr(model, "model", None)
        if getattr(model.config, "tie_word_embeddings", False) and hasattr(head, "tie_weights"):
            assert head is not None
            assert body is not None
            head.tie_weights(body.embed_tokens)
            head.quant_method.process_weights_after_loading(head)


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone; a killed server must not leave gigabytes behind."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
