"""What runs inside vLLM's worker process: lean prompt scores, whole reloads, and an end when the server is gone.

vLLM 0.32's older model runner (the one on CPUs) holds logits, their float copy, log-probabilities and ranks of a whole
prompt at once, for every position whether wanted or not. `Worker` replaces that one method: only the positions asked
for, a few hundred at a time, no ranks. Where the method is not as expected nothing is replaced, and scores take
vLLM's own way.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from vllm.platforms import current_platform
from vllm.v1.outputs import LogprobsTensors

# A request's key, in SamplingParams.extra_args, for the first position whose score is wanted.
FIRST_SCORED = "burnish_first_scored"

_METHOD = "_get_prompt_logprobs_dict"
_ROWS = 256  # positions whose logits are held at a time: rows × vocabulary float32
_WATCH_SECONDS = 1.0

Original = Callable[[torch.Tensor, dict[str, int]], dict[str, LogprobsTensors | None]]


class Worker:
    """Mixed into vLLM's worker class; its methods are called by `collective_rpc`."""

    model_runner: Any
    vllm_config: Any

    def burnish_prepare(self) -> bool:
        """Watches for the parent's end, speeds up an eager model on a CPU, and replaces the scoring; returns whether
        the scoring is replaced."""
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="burnish-parent-watch").start()
        if current_platform.is_cpu() and self.vllm_config.model_config.enforce_eager:
            # Not above: the server names this module too, and need not load vLLM's layers and threads for that.
            from burnish_services.engine.vllm_engine.cpu_kernels import use_kernels

            use_kernels(self.model_runner.get_model())
        original = getattr(self.model_runner, _METHOD, None)
        expected = ["hidden_states", "num_scheduled_tokens"]
        if original is None or list(inspect.signature(original).parameters) != expected:
            return False
        setattr(self.model_runner, _METHOD, MethodType(_scorer(original), self.model_runner))
        return True

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


def _scorer(original: Original) -> Callable[..., dict[str, LogprobsTensors | None]]:
    """The replacement, which leaves to `original` what it does not know."""

    def scores(
        runner: Any, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, LogprobsTensors | None]:
        found: dict[str, LogprobsTensors | None] = {}
        for request_id in list(runner.num_prompt_logprobs):
            request = runner.requests[request_id]
            first = (request.sampling_params.extra_args or {}).get(FIRST_SCORED)
            ids = request.prompt_token_ids
            # A whole prompt in one step, as the engine is started; anything else is vLLM's own business.
            if first is None or ids is None or num_scheduled_tokens.get(request_id) != len(ids):
                continue
            offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]])
            hidden = hidden_states[offset + first - 1 : offset + len(ids) - 1]
            found[request_id] = _score(runner.model, hidden, torch.tensor(ids[first:], device=hidden.device))
            del runner.num_prompt_logprobs[request_id]
        return found | original(hidden_states, num_scheduled_tokens)

    return scores


def _score(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> LogprobsTensors:
    parts = []
    for rows, wanted in zip(hidden.split(_ROWS), targets.split(_ROWS), strict=True):
        logits = model.compute_logits(rows).float()
        parts.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=1))
    scores = torch.cat(parts).cpu()
    return LogprobsTensors(
        logprob_token_ids=targets[:, None].to("cpu", torch.int32),
        logprobs=scores[:, None],
        selected_token_ranks=torch.ones(len(scores), dtype=torch.int32),  # not computed; nobody looks
    )


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone; a killed server must not leave gigabytes behind."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
