"""The contenders of the scoring bench, each a process of its own that waits while others are timed.

`python -m bench.scoring_contenders NAME …` takes orders `{"sequences": …}` and answers `{"means": …}`. Burnish is not
here: it is a server like any other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bench.peers import serve
from bench.vllm_alone import offline

Sequences = list[tuple[list[int], int]]
Score = Callable[[Sequences], list[float]]


def vllm_offline(model: str, context: int, batch_tokens: int, compiled: bool, score: bool) -> Score:
    """vLLM's own `LLM.generate` of one token, with `prompt_logprobs=0` or, for the floor, without."""
    llm = offline(
        model,
        context=context,
        compiled=compiled,
        max_num_batched_tokens=max(batch_tokens, context + 1),
        enable_chunked_prefill=True,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=1 << 30,
    )
    from vllm import SamplingParams

    parameters = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        detokenize=False,
        **({"prompt_logprobs": 0, "flat_logprobs": True} if score else {}),
    )

    def run(sequences: Sequences) -> list[float]:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids, _ in sequences], parameters, use_tqdm=False)
        if not score:
            return [0.0] * len(sequences)
        means = []
        for output, (_, first) in zip(outputs, sequences, strict=True):
            found = output.prompt_logprobs
            values = [found.logprobs[at] for at in found.start_indices[first:]]
            means.append(-sum(values) / len(values))
        return means

    return run


def transformers_loop(model: str, batch: int) -> Score:
    """Padded batches in the order given, cross entropy over all positions: what the published method's code does."""
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()

    @torch.inference_mode()
    def run(sequences: Sequences) -> list[float]:
        means = []
        for at in range(0, len(sequences), batch):
            part = sequences[at : at + batch]
            longest = max(len(ids) for ids, _ in part)
            ids = torch.tensor([[*one, *[0] * (longest - len(one))] for one, _ in part])
            mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one, _ in part])
            labels = torch.tensor([[-100] * first + one[first:] + [-100] * (longest - len(one)) for one, first in part])
            logits = net(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="none", ignore_index=-100
            ).view(len(part), -1)
            means += (losses.sum(1) / (labels[:, 1:] != -100).sum(1)).tolist()
        return means

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["prompt_logprobs", "prefill", "transformers"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()

    def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
        if given.name == "transformers":
            score = transformers_loop(given.model, batch=8)
        else:
            score = vllm_offline(
                given.model, given.context, given.batch_tokens, given.compile, given.name == "prompt_logprobs"
            )
        return lambda order: {"means": score([(ids, first) for ids, first in order["sequences"]])}

    serve(prepare)


if __name__ == "__main__":
    main()
