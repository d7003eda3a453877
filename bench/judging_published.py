"""The published way to rate: six prompts a sample, each read from the start, each answered at length.

`python -m bench.judging_published …` takes orders `{"samples": [[role, content], …]}` and answers `{"replies": …}`,
sample by sample and in the order of `QUESTIONS`, with the tokens it wrote. The published prompt's intent in our words
(docs/middo.md): feedback on one dimension, 0 to 10, the number first and then a comprehensive explanation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from bench.peers import serve
from bench.vllm_alone import offline

DIMENSIONS = {
    "clarity": "whether it is easy to understand, with concise language and a clear structure",
    "completeness": "whether it gives enough information and detail",
    "factuality": "whether it is accurate and based on reliable facts",
}
# In the order of the service's ratings.
QUESTIONS = [(dimension, target) for dimension in DIMENSIONS for target in ("prompt", "response")]


def prompt(messages: list[list[str]], dimension: str, target: str) -> str:
    """One question about one sample."""
    judged = {"prompt": "instruction", "response": "response to the instruction"}[target]
    material = "\n\n".join(f"### {role}\n{text}" for role, text in messages if target == "response" or role == "user")
    return (
        f"We would like your feedback on the {dimension} of the {judged} below: {DIMENSIONS[dimension]}.\n\n"
        f"{material}\n\n"
        f"Please rate its {dimension} on a scale from 0 to 10, where a higher score is better; a full 10 is rare. "
        "Write the score first, as a single number on a line of its own. In the lines after it, give a comprehensive "
        "explanation of your rating."
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()

    def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
        llm = offline(given.model, context=given.context, compiled=given.compile, kv_cache_memory_bytes=3 << 30)
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.1, top_p=0.7, top_k=50, max_tokens=1024)

        def run(order: dict[str, Any]) -> dict[str, Any]:
            asked = [
                [{"role": "user", "content": prompt(messages, dimension, target)}]
                for messages in order["samples"]
                for dimension, target in QUESTIONS
            ]
            found = [output.outputs[0] for output in llm.chat(asked, sampling, use_tqdm=False)]
            return {"replies": [one.text for one in found], "tokens": sum(len(one.token_ids) for one in found)}

        return run

    serve(prepare)


if __name__ == "__main__":
    main()
