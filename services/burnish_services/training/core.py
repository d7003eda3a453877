"""What determines a training run: its specification, the defaults, and what is refused. Pure.

Knows no disk, no process and no RPC. What becomes of a run is in `state.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

LR_SCHEDULERS = ("cosine", "linear", "constant")
DTYPES = ("float32", "bfloat16")
MAX_REQUEST_ID = 128  # characters
DEFAULT_MAX_SEQUENCE_TOKENS = 4096


class SpecError(ValueError):
    """A specification is malformed; `field` is its path in the RunSpec proto."""

    def __init__(self, field_path: str, message: str) -> None:
        super().__init__(f"{field_path}: {message}")
        self.field = field_path


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How to train, as asked for; None takes the default of `Plan`. Ranges as in training.proto."""

    num_epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    warmup_ratio: float | None = None
    lr_scheduler: str | None = None
    per_device_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    max_sequence_tokens: int | None = None
    dtype: str | None = None
    seed: int | None = None
    checkpoint_steps: int | None = None
    gradient_checkpointing: bool | None = None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run as asked for; see training.proto's RunSpec."""

    base_uri: str
    data_uri: str
    base_digest: str = ""
    data_digest: str = ""
    output_uri: str = ""
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    eval_data_uri: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Hyperparameters with every default taken."""

    num_epochs: float = 1.0
    max_steps: int | None = None
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.03
    lr_scheduler: str = "cosine"
    per_device_batch_size: int = 4
    gradient_accumulation_steps: int = 8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_sequence_tokens: int = DEFAULT_MAX_SEQUENCE_TOKENS
    dtype: str = "float32"
    seed: int = 0
    checkpoint_steps: int = 50
    gradient_checkpointing: bool = False

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimiser step; the last step of an epoch may have fewer."""
        return self.per_device_batch_size * self.gradient_accumulation_steps


def plan(asked: Hyperparameters) -> Plan:
    """The hyperparameters with defaults for what is unset. Raises SpecError for a value out of range."""
    resolved = Plan(**{f.name: value for f in fields(asked) if (value := getattr(asked, f.name)) is not None})
    positive = ("num_epochs", "learning_rate")
    not_negative = ("weight_decay", "max_grad_norm", "seed")
    at_least_one = ("per_device_batch_size", "gradient_accumulation_steps", "checkpoint_steps")
    for name in positive:
        _check(name, resolved, lambda value: value > 0, "a number > 0")
    for name in not_negative:
        _check(name, resolved, lambda value: value >= 0, "a number >= 0")
    for name in at_least_one:
        _check(name, resolved, lambda value: value >= 1, "a whole number >= 1")
    _check("warmup_ratio", resolved, lambda value: 0 <= value <= 1, "a number in [0, 1]")
    _check("max_sequence_tokens", resolved, lambda value: value >= 2, "a whole number >= 2")
    if resolved.max_steps is not None:
        _check("max_steps", resolved, lambda value: value >= 1, "a whole number >= 1; leave it unset for no limit")
    for name, words in (("lr_scheduler", LR_SCHEDULERS), ("dtype", DTYPES)):
        if getattr(resolved, name) not in words:
            raise SpecError(
                f"hyperparameters.{name}", f"is {getattr(resolved, name)!r}, expected one of {', '.join(words)}"
            )
    return resolved


def _check(name: str, resolved: Plan, good: Callable[[float], bool], expected: str) -> None:
    value = getattr(resolved, name)
    if not math.isfinite(value) or not good(value):
        raise SpecError(f"hyperparameters.{name}", f"is {value}, expected {expected}")


def check_spec(spec: RunSpec) -> Plan:
    """The plan of a well-formed specification. Touches no file. Raises SpecError."""
    if not spec.base_uri:
        raise SpecError("base_model.uri", "is empty, expected a path or file:// URI of a model directory")
    if not spec.data_uri:
        raise SpecError("data_uri", "is empty, expected a path or file:// URI of a JSONL file")
    for path, digest in (("base_model.digest", spec.base_digest), ("data_digest", spec.data_digest)):
        if digest and not is_digest(digest):
            raise SpecError(path, f"is {digest!r}, expected sha256: and 64 hexadecimal digits, or nothing")
    return plan(spec.hyperparameters)


def is_digest(text: str) -> bool:
    """True for `sha256:` and 64 lower-case hexadecimal digits."""
    word, _, digits = text.partition(":")
    return word == "sha256" and len(digits) == 64 and set(digits) <= set("0123456789abcdef")


def total_steps(plan: Plan, num_samples: int) -> int:
    """Optimiser steps that a run over `num_samples` (>= 1) takes, >= 1."""
    per_epoch = math.ceil(math.ceil(num_samples / plan.per_device_batch_size) / plan.gradient_accumulation_steps)
    steps = math.ceil(plan.num_epochs * per_epoch)
    return min(steps, plan.max_steps) if plan.max_steps is not None else steps


def epoch_order(lengths: Sequence[int], plan: Plan, epoch: int) -> list[int]:
    """Order in which the samples, given by their lengths in tokens, are read in `epoch` (from 0).

    A fresh shuffle for each (seed, epoch) decides which samples share an optimiser step; within a step they stand by
    length, so that a forward pass holds samples of like length and little padding. That changes no result: the loss
    of a step is a mean over all its tokens, however they are grouped.
    """
    shuffled = np.random.default_rng([plan.seed, epoch]).permutation(len(lengths)).tolist()
    order: list[int] = []
    for start in range(0, len(shuffled), plan.samples_per_step):
        # Longest first: if memory does not suffice for a step, that shows at once.
        order += sorted(shuffled[start : start + plan.samples_per_step], key=lambda index: (-lengths[index], index))
    return order


def lr_factor(plan: Plan, step: int, steps: int) -> float:
    """Share of the peak learning rate in optimiser step `step` (from 0) of `steps`, in (0, 1].

    Rises linearly over the first `warmup_ratio` of the steps, then falls as `lr_scheduler` says, as in HF's schedules
    but for one thing: no step is spent at rate 0, which would be a wasted eighth of a run of eight steps.
    """
    warmup = math.ceil(steps * plan.warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if plan.lr_scheduler == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - done if plan.lr_scheduler == "linear" else 1.0
