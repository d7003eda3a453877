"""Loss curves that training must follow, from a loop as plain as the formulas: one sample at a time, whole logits, no
batches, no Trainer. Which samples share a step, and the schedule of the rate, are the service's.

    .venv/bin/python -m tests.golden.training               makes tests/golden/training.json anew, by the plain loop
    .venv/bin/python -m tests.golden.training trained FILE  writes what the service's trainer gives into FILE
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.models import model_digest
from burnish_services.training.core import (
    Bilevel,
    Plan,
    RunSpec,
    epoch_order,
    lr_factor,
    steps_per_epoch,
    total_steps,
    validation_batch,
)
from burnish_services.training.data import TrainingSample, read_data
from burnish_services.training.job import Job
from burnish_services.training.messages import Progressed, Reporter, decode
from burnish_services.training.runs import Resolved, RunStore, Selection
from burnish_services.training.sft import train
from tests.service.training_support import sample, write_jsonl
from tests.tiny_model import write_tiny_model

GOLDEN = Path(__file__).with_name("training.json")
PLAN = Plan(num_epochs=2.5, learning_rate=2e-3, per_device_batch_size=3, gradient_accumulation_steps=2, seed=5)
HOW = Bilevel("sigmoid", 0.5, penalty_start=0.7, penalty_decay=0.2)
Curves = dict[str, list[float]]


def files(folder: Path) -> dict[str, Path]:
    """Data in which every third answer is wrong, the same with weights, and a validation set."""
    rows = [sample(i, answer="It is a fish." if i % 3 == 0 else "") for i in range(20)]
    weighted = [{**row, "weight": (8.0, 1.0, 0.1)[i % 3]} for i, row in enumerate(rows)]
    trusted = [sample(i) for i in range(50, 54)]
    named = {"data": rows, "weighted": weighted, "trusted": trusted}
    return {name: write_jsonl(folder / f"{name}.jsonl", lines) for name, lines in named.items()}


def plain(folder: Path) -> Curves:
    """The curves by the plain loop."""
    torch.set_num_threads(1)
    base, there = write_tiny_model(folder / "base"), files(folder)
    tokenizer = HfTokenizer(base)
    read = {name: list(read_data(path, tokenizer, 256).samples) for name, path in there.items()}
    return {
        "plain": _descend(base, read["data"], None),
        "weighted": _descend(base, read["weighted"], None),
        "bilevel": _descend(base, read["data"], read["trusted"]),
    }


def _descend(base: Path, data: list[TrainingSample], trusted: list[TrainingSample] | None) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    logits, baseline = np.zeros(len(data)), None
    lengths = [len(one.tokens.ids) for one in data]
    per_epoch, steps = steps_per_epoch(PLAN, len(data)), total_steps(PLAN, len(data))
    losses = []
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        size = PLAN.samples_per_step
        chosen = epoch_order(lengths, PLAN, epoch)[place * size : (place + 1) * size]
        each = {index: _token_losses(model, data[index]) for index in chosen}
        if trusted is None:
            counted = sum(data[index].weight * len(found) for index, found in each.items())
            loss = sum(data[index].weight * found.sum() for index, found in each.items()) / counted
        else:
            share = max(0.0, HOW.penalty_start - HOW.penalty_decay * epoch)
            weights = 2 / (1 + np.exp(-logits))
            asked = validation_batch(len(trusted), size, PLAN.seed, step)
            validation = sum(_token_losses(model, trusted[index]).mean() for index in asked) / len(asked)
            weighted = sum(float(weights[index]) * found.mean() for index, found in each.items()) / len(chosen)
            loss = share * validation + (1 - share) * weighted
            means = {index: float(found.mean().detach()) for index, found in each.items()}
            mean = sum(means.values()) / len(means)
            baseline = mean if baseline is None else 0.99 * baseline + 0.01 * mean
            for index, one in means.items():
                logits[index] -= HOW.selector_learning_rate * (one - baseline)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), PLAN.max_grad_norm)
        optimizer.param_groups[0]["lr"] = PLAN.learning_rate * lr_factor(PLAN, step, steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(float(loss.detach()), 4))
    return losses


def _token_losses(model: torch.nn.Module, one: TrainingSample) -> torch.Tensor:
    """The loss of every response token, in nats."""
    ids = torch.tensor(one.tokens.ids)
    likely = torch.log_softmax(model(input_ids=ids[None]).logits[0], -1)
    places = [place for turn in one.tokens.turns for place in range(turn.start, turn.end)]
    return torch.stack([-likely[place - 1, ids[place]] for place in places])


def trained(folder: Path) -> Curves:
    """The curves by the service's trainer, in this process."""
    base, there = write_tiny_model(folder / "base"), files(folder)
    resolved = Resolved(PLAN, base, model_digest(base), there["data"], "", None, folder / "out", "sft")
    selection = Selection(HOW, there["trusted"], "")
    asked = {
        "plain": resolved,
        "packed": replace(resolved, plan=replace(PLAN, packing=True)),
        "weighted": replace(resolved, data=there["weighted"]),
        "bilevel": replace(resolved, selection=selection),
    }
    store = RunStore(folder / "runs")
    store.load()
    curves = {}
    for name, one in asked.items():
        run = store.create(name, RunSpec(str(base), str(one.data)), replace(one, output=folder / name))
        told = folder / f"{name}.messages"
        descriptor = os.open(told, os.O_WRONLY | os.O_CREAT)
        train(Job(run.directory, run.record, Reporter(descriptor), threading.Event(), 1, 1e9, 0.0))
        os.close(descriptor)
        messages = [decode(line) for line in told.read_bytes().splitlines()]
        steps = {m.progress.step: m.progress.loss for m in messages if isinstance(m, Progressed) and m.progress.step}
        curves[name] = [loss for _, loss in sorted(steps.items()) if loss is not None]
    return curves


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        if sys.argv[1:2] == ["trained"]:
            Path(sys.argv[2]).write_text(json.dumps(trained(Path(made))), encoding="utf-8")
        else:
            GOLDEN.write_text(json.dumps(plain(Path(made)), indent=1) + "\n", encoding="utf-8")
