"""A process that trains nothing: it makes the model that all begin with, and judges what they made of it."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bench.peers import serve
from bench.training.flops import ONE_BILLION, Shape
from bench.training.recipe import IGNORED

Order = dict[str, Any]
_SIDE = 8192  # of the square matrices that the device's peak is measured with
_TRIES = 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(model: Path, out: Path) -> Order:
    """The model in float32, so that whoever publishes in the base's number format rounds nothing."""
    copy(model, out)
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).save_pretrained(out)
    return {}


def make_random(model: Path, out: Path, shape: Shape) -> Order:
    """Random weights of a shape in float32, with the model's tokenizer."""
    copy(model, out)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=True,
    )
    with torch.device(DEVICE):
        model = LlamaForCausalLM(config)
    model.save_pretrained(out)
    return {"shape": asdict(shape)}


def copy(model: Path, out: Path) -> None:
    """Everything but the weights."""
    out.mkdir()
    for path in model.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, out / path.name)


@torch.inference_mode()
def loss(model: Path, examples: list[dict[str, list[int]]]) -> Order:
    """Mean negative log-likelihood of all response tokens, in nats: one sample at a time, without padding, in exact
    float32, by `transformers` as it is."""
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).to(DEVICE).eval()
    total, count = 0.0, 0
    for example in examples:
        logits = net(input_ids=torch.tensor([example["input_ids"]], device=DEVICE), use_cache=False).logits[0, :-1]
        labels = torch.tensor(example["labels"][1:], device=DEVICE)
        total += float(F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
        count += int((labels != IGNORED).sum())
    return {"loss": total / count}


def peak() -> Order:
    """The device's name and floating-point operations a second in products of large bfloat16 matrices, the median of
    some; nothing where there is no GPU."""
    if DEVICE == "cpu":
        return {"device": "", "flops": 0.0}
    a, b = (torch.randn(_SIDE, _SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(_TRIES):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {"device": torch.cuda.get_device_name(), "flops": 2 * _SIDE**3 / statistics.median(seconds)}


def device_memory() -> Order:
    """What is taken of the GPU's memory, by all processes; 0 where there is none."""
    if DEVICE == "cpu":
        return {"mib": 0.0}
    free, total = torch.cuda.mem_get_info()
    return {"mib": (total - free) / 2**20}


def prepare(threads: int) -> Callable[[Order], Order]:
    """Answers orders `{"make": …}`, `{"make_random": …}`, `{"loss": …}`, `{"device_memory": …}` and `{"peak": …}`."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)

    def run(order: Order) -> Order:
        answer = answer_to(order)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()  # the next contender needs it
        return answer

    return run


def answer_to(order: Order) -> Order:
    """See `prepare`."""
    if "make" in order:
        return make(Path(order["make"]), Path(order["out"]))
    if "make_random" in order:
        return make_random(Path(order["make_random"]), Path(order["out"]), ONE_BILLION)
    if "loss" in order:
        return loss(Path(order["loss"]), json.loads(Path(order["held_out"]).read_text(encoding="utf-8")))
    if "device_memory" in order:
        return device_memory()
    return peak()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    serve(lambda: prepare(given.threads))
