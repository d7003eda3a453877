"""Loss curves that training must follow, from a loop as plain as the formulas: one sample at a time, whole logits, no
batches, no Trainer. Which samples share a step, and the schedule of the rate, are the service's.

    .venv/bin/python -m tests.golden.training               makes tests/golden/training.json anew, by the plain loop
    .venv/bin/python -m tests.golden.training trained FILE  writes what the service's trainer gives into FILE
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from unittest import mock

import torch
from transformers import AutoModelForCausalLM

from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.model_digests import model_digest
from burnish_services.training.core import (
    Bilevel,
    Plan,
    Refinement,
    RunSpec,
    epoch_order,
    lr_factor,
    steps_per_epoch,
    total_steps,
    validation_batch,
)
from burnish_services.training.data import TrainingSample, read_data
from burnish_services.training.job import Job
from burnish_services.training.loss import Batch
from burnish_services.training.messages import Progressed, Reporter, decode
from burnish_services.training.pool import Pool, PooledResponse, read_pool
from burnish_services.training.runs import Resolved, RunStore, Selection
from burnish_services.training.sft import train
from burnish_services.training.trainer import SftTrainer
from tests.service.training_support import sample, write_jsonl
from tests.tiny_model import write_tiny_model

GOLDEN = Path(__file__).with_name("training.json")
PLAN = Plan(num_epochs=2.5, learning_rate=2e-3, per_device_batch_size=3, gradient_accumulation_steps=2, seed=5)
HOW = Bilevel("sigmoid", 0.5, penalty_start=0.7, penalty_decay=0.2)
CLIP = math.log(10)  # of a ratio of probabilities
Curves = dict[str, list[float]]


@dataclass
class Trained:
    """What the service's trainer did: the loss of each step, and, as it began, the rows of the first batch, and of each
    model that it trains whether activations are recomputed and the formats of its weights."""

    losses: list[float] = field(default_factory=list)
    rows: int = 0
    checkpointed: list[bool] = field(default_factory=list)
    formats: list[list[str]] = field(default_factory=list)

    def note(self, trainer: SftTrainer, batch: Batch) -> None:
        """Takes down what is known once the first batch is there; later ones change nothing."""
        if self.rows:
            return
        auxiliary = getattr(trainer, "_auxiliary", None)
        models = [trainer.model] if auxiliary is None else [trainer.model, auxiliary.model]
        self.rows = len(batch["input_ids"])
        self.checkpointed = [model.is_gradient_checkpointing for model in models]
        self.formats = [sorted({str(weight.dtype) for weight in model.parameters()}) for model in models]


@dataclass(frozen=True)
class Course:
    """How one curve comes about. `refined`: how the model's own responses are weighed, where it learns from some."""

    how: Bilevel | None = None
    weighted: bool = False
    refined: str | None = None
    plan: Plan = PLAN


# Both are far stronger than usual, so that ten steps show them: weights decay by the rate times that much, and Adam is
# the same whatever gradients are multiplied by, as long as they are large beside its epsilon of 1e-8.
DECAYED, CLIPPED = replace(PLAN, weight_decay=20.0), replace(PLAN, max_grad_norm=1e-6)
COURSES = {
    "plain": Course(),
    "decayed": Course(plan=DECAYED),
    "clipped": Course(plan=CLIPPED),
    "weighted": Course(weighted=True),
    "bilevel": Course(HOW),
    "softmax": Course(replace(HOW, weighting="softmax", selector_learning_rate=0.5)),
    "auxiliary": Course(replace(HOW, auxiliary=True, selector_learning_rate=20.0)),
    "auxiliary decayed": Course(replace(HOW, auxiliary=True, selector_learning_rate=20.0), plan=DECAYED),
    "auxiliary clipped": Course(replace(HOW, auxiliary=True, selector_learning_rate=20.0), plan=CLIPPED),
    "validation first": Course(replace(HOW, penalty_start=1.0, penalty_decay=0.5)),
    "refined": Course(HOW, refined="self_normalized"),
    "refined by tokens": Course(HOW, refined="token"),
    "refined alike": Course(HOW, refined="uniform"),
}


def files(folder: Path) -> dict[str, Path]:
    """Data in which every third answer is wrong, the same with weights, a validation set, and two responses to every
    second question, of 5 and 9 tokens, with the log-probabilities that they were generated with."""
    rows = [sample(i, answer="It is a fish." if i % 3 == 0 else "") for i in range(20)]
    weighted = [{**row, "weight": (8.0, 1.0, 0.1)[i % 3]} for i, row in enumerate(rows)]
    trusted = [sample(i) for i in range(50, 54)]
    pool = [
        {
            "id": row["id"],
            "messages": row["messages"][:-1],
            "responses": [
                {"token_ids": [40] * 5, "logprobs": [-3.0] * 5},
                {"token_ids": [20 + (7 * i + place) % 60 for place in range(9)], "logprobs": [-6.5] * 9},
            ],
        }
        for i, row in enumerate(rows)
        if i % 2 == 1
    ]
    named = {"data": rows, "weighted": weighted, "trusted": trusted, "pool": pool}
    return {name: write_jsonl(folder / f"{name}.jsonl", lines) for name, lines in named.items()}


def plain(folder: Path) -> Curves:
    """The curves by the plain loop."""
    torch.set_num_threads(1)
    base, there = write_tiny_model(folder / "base"), files(folder)
    tokenizer = HfTokenizer(base)
    read = {name: list(read_data(there[name], tokenizer, 256).samples) for name in ("data", "weighted", "trusted")}
    pool = read_pool(there["pool"], tokenizer, 256, [one.name for one in read["data"]])
    return {
        name: _descend(base, read["weighted" if one.weighted else "data"], read["trusted"], pool, one)
        for name, one in COURSES.items()
    }


def _descend(
    base: Path, data: list[TrainingSample], trusted: list[TrainingSample], pool: Pool, course: Course
) -> list[float]:
    model, beside = (AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32) for _ in range(2))
    plan = course.plan
    optimizers = [_adam(one, plan.weight_decay) for one in (model, beside)]
    how, asked = course.how, pool.responses if course.refined else {}
    selector = None if how is None else _Selector(how, len(data))
    lengths = [len(one.tokens.ids) for one in data]
    per_epoch, steps = steps_per_epoch(plan, len(data)), total_steps(plan, len(data))
    losses = []
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        size = plan.samples_per_step
        chosen = epoch_order(lengths, plan, epoch)[place * size : (place + 1) * size]
        each = {index: _token_losses(model, data[index]) for index in chosen if index not in asked}
        if how is None or selector is None:
            counted = sum(data[index].weight * len(found) for index, found in each.items())
            loss = sum(data[index].weight * found.sum() for index, found in each.items()) / counted
        else:
            share = max(0.0, how.penalty_start - how.penalty_decay * epoch)
            weights = selector.weights()
            validated = validation_batch(len(trusted), size, plan.seed, step)
            validation = sum(_token_losses(model, trusted[index]).mean() for index in validated) / len(validated)
            lower = sum(float(weights[index]) * found.mean() for index, found in each.items())
            lower = lower + sum(_own(model, asked[index], course.refined) for index in chosen if index in asked)
            loss = share * validation + (1 - share) * lower / len(chosen)
            excess = {index: float(found.mean().detach()) for index, found in each.items()}
            if how.auxiliary:
                others = {index: _token_losses(beside, data[index]).mean() for index in each}
                (sum(float(weights[index]) * other for index, other in others.items()) / len(chosen)).backward()
                excess = {index: one - float(others[index].detach()) for index, one in excess.items()}
            if excess:  # nothing is learnt of samples whose responses are the model's own
                selector.update(excess)
        loss.backward()
        for trained, optimizer in zip((model, beside), optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(trained.parameters(), plan.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = plan.learning_rate * lr_factor(plan, step, steps)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(round(float(loss.detach()), 4))
    return losses


def _adam(model: torch.nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of a model; what scales its activations, of one dimension, does not decay."""
    matrices = [one for one in model.parameters() if one.ndim > 1]
    scales = [one for one in model.parameters() if one.ndim == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": weight_decay}, {"params": scales}], weight_decay=0.0)


class _Selector:
    """The weights of N samples, by the formulas of docs/bilevel.md, all N of them at each step."""

    def __init__(self, how: Bilevel, count: int) -> None:
        self._how = how
        self._logits = torch.zeros(count, dtype=torch.float64, requires_grad=True)
        self._adam = torch.optim.Adam([self._logits], how.selector_learning_rate, betas=(0.9, 0.95))
        self._baseline: float | None = None

    def _now(self) -> torch.Tensor:
        if self._how.weighting == "softmax":
            return len(self._logits) * torch.softmax(self._logits, 0)
        return 2 * torch.sigmoid(self._logits)

    def weights(self) -> list[float]:
        """ω of all samples."""
        return list(map(float, self._now().detach()))

    def update(self, excess: Mapping[int, float]) -> None:
        """One step, by what a batch's samples lose more than they should."""
        if self._how.weighting == "softmax":
            now = self._now()
            self._adam.zero_grad()
            (sum(now[index] * one for index, one in excess.items()) / len(excess)).backward()
            self._adam.step()
            return
        if not self._how.auxiliary:
            mean = sum(excess.values()) / len(excess)
            self._baseline = mean if self._baseline is None else 0.99 * self._baseline + 0.01 * mean
        with torch.no_grad():
            for index, one in excess.items():
                weight = float(2 * torch.sigmoid(self._logits[index]))
                slope = one * weight * (2 - weight) / 2 if self._how.auxiliary else one - (self._baseline or 0.0)
                self._logits[index] -= self._how.selector_learning_rate * slope


def _own(model: torch.nn.Module, responses: Sequence[PooledResponse], variant: str | None) -> torch.Tensor:
    """What the model's own responses to a question add, as arXiv 2511.21056 is read in docs/bilevel.md."""
    found = [_token_losses(model, one.sample) for one in responses]
    generator = [torch.tensor(one.generator, dtype=torch.float32) for one in responses]
    if variant == "token":
        ratios = [(-one.detach() - then).exp().clamp(max=10) for one, then in zip(found, generator, strict=True)]
        return sum((ratio * one).mean() for ratio, one in zip(ratios, found, strict=True)) / len(found)
    if variant == "uniform":
        return sum(one.mean() for one in found) / len(found)
    moved = [float((-one.detach() - then).mean()) for one, then in zip(found, generator, strict=True)]
    raised = [math.exp(min(CLIP, max(-CLIP, one))) for one in moved]
    return sum(one / sum(raised) * loss.mean() for one, loss in zip(raised, found, strict=True))


def _token_losses(model: torch.nn.Module, one: TrainingSample) -> torch.Tensor:
    """The loss of every response token, in nats."""
    ids = torch.tensor(one.tokens.ids)
    likely = torch.log_softmax(model(input_ids=ids[None]).logits[0], -1)
    places = [place for turn in one.tokens.turns for place in range(turn.start, turn.end)]
    return torch.stack([-likely[place - 1, ids[place]] for place in places])


def trained(folder: Path) -> dict[str, Trained]:
    """What the service's trainer does, in this process; with settings that change curves by rounding alone, too."""
    base, there = write_tiny_model(folder / "base"), files(folder)
    resolved = Resolved(PLAN, base, model_digest(base), there["data"], "", None, folder / "out", "sft")
    courses = {name: _resolved(resolved, there, course) for name, course in COURSES.items()}
    for name, plan in (
        ("packed", replace(PLAN, packing=True)),
        ("checkpointed", replace(PLAN, gradient_checkpointing=True)),
        ("mixed", replace(PLAN, dtype="mixed")),
        ("bfloat16", replace(PLAN, dtype="bfloat16")),
    ):
        courses[f"plain, {name}"] = replace(courses["plain"], plan=plan)
        courses[f"auxiliary, {name}"] = replace(courses["auxiliary"], plan=plan)
    # However many responses to its samples a pass takes, down to passes over one sample, all of whose are the model's.
    for name, size in (("two by two", 2), ("one by one", 1)):
        plan = replace(PLAN, per_device_batch_size=size, gradient_accumulation_steps=PLAN.samples_per_step // size)
        courses[f"refined, {name}"] = replace(courses["refined"], plan=plan)
    # A step of one sample, all of whose responses may be the model's own.
    alone = replace(PLAN, per_device_batch_size=1, gradient_accumulation_steps=1, num_epochs=0.5)
    courses["alone"] = replace(courses["refined"], plan=alone)
    store = RunStore(folder / "runs")
    store.load()
    did = {}
    for name, one in courses.items():
        run = store.create(name, RunSpec(str(base), str(one.data)), replace(one, output=folder / name))
        if one.refinement is not None:
            run.directory.pool(0).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(there["pool"], run.directory.pool(0))
        told = folder / f"{name}.messages"
        descriptor = os.open(told, os.O_WRONLY | os.O_CREAT)
        with _noting(did.setdefault(name, Trained())):
            train(Job(run.directory, run.record, Reporter(descriptor), threading.Event(), 1, 1e9, 0.0))
        os.close(descriptor)
        messages = [decode(line) for line in told.read_bytes().splitlines()]
        steps = {m.progress.step: m.progress.loss for m in messages if isinstance(m, Progressed) and m.progress.step}
        did[name].losses = [loss for _, loss in sorted(steps.items()) if loss is not None]
    return did


@contextmanager
def _noting(noted: Trained) -> Iterator[None]:
    """Has trainers tell what they do with their plan."""
    collated = SftTrainer._collate

    def told(trainer: SftTrainer, indices: list[int]) -> Batch:
        batch = collated(trainer, indices)
        noted.note(trainer, batch)
        return batch

    with mock.patch.object(SftTrainer, "_collate", told):
        yield


def _resolved(plain: Resolved, there: Mapping[str, Path], course: Course) -> Resolved:
    selection = None if course.how is None else Selection(course.how, there["trusted"], "")
    # One that never pauses: the responses are there from the beginning.
    own = None if course.refined is None else Refinement(10**6, 10**6, 0.0, course.refined)
    data = there["weighted" if course.weighted else "data"]
    return replace(plain, plan=course.plan, data=data, selection=selection, refinement=own)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        if sys.argv[1:2] == ["trained"]:
            Path(sys.argv[2]).write_text(
                json.dumps({name: asdict(one) for name, one in trained(Path(made)).items()}), encoding="utf-8"
            )
        else:
            GOLDEN.write_text(json.dumps(plain(Path(made)), indent=1) + "\n", encoding="utf-8")
