"""What determines a training run: its specification, the defaults, and what is refused. Pure.

Knows no disk, no process and no RPC. What becomes of a run is in `state.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from burnish_services.training.bilevel.importance import VARIANTS
from burnish_services.training.bilevel.selector import LEARNING_RATES, SELECTORS

LR_SCHEDULERS = ("cosine", "linear", "constant")
DTYPES = ("float32", "mixed", "bfloat16")
MAX_REQUEST_ID = 128  # characters
MAX_RANK = 1024  # of a LoRA adapter
# What a run names stays in every listing and event of it.
_MOST_MODULES, _LONGEST_MODULE, _LONGEST_URI = 64, 256, 4096
_NO_DATA = "is empty, expected the path or URI of a JSONL file"
LOSSES_KEPT, MIN_LOSSES = 100, 8  # steps that a spike is told by, and the fewest
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
    max_loss_ratio: float | None = None
    eval_steps: int | None = None
    publish_best: bool | None = None
    packing: bool | None = None


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Low-rank adapters as asked for; None takes the default of `Lora`. Ranges as in training.proto."""

    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()
    adapter_only: bool | None = None


@dataclass(frozen=True, slots=True)
class BilevelSpec:
    """Bilevel data selection as asked for; None takes the default of `Bilevel`. Ranges as in training.proto."""

    validation_data_uri: str
    validation_data_digest: str = ""
    weighting: str | None = None
    auxiliary: bool | None = None
    penalty_start: float | None = None
    penalty_decay: float | None = None
    selector_learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class RefinementSpec:
    """Online self-refinement as asked for; None takes the default of `Refinement`. Ranges as in training.proto."""

    warmup_steps: int | None = None
    refresh_steps: int | None = None
    min_effective_share: float | None = None
    response_weighting: str | None = None
    length_power: float | None = None
    temperature: float | None = None


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
    lora: LoraSpec | None = None
    bilevel: BilevelSpec | None = None
    refinement: RefinementSpec | None = None


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters with every default taken; merged into the weights when the model is published, unless they are
    to be published alone."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()  # names of linear layers; empty: all but the head
    adapter_only: bool = False


@dataclass(frozen=True, slots=True)
class Bilevel:
    """Bilevel data selection with every default taken; see `bilevel/selector.py`."""

    weighting: str
    selector_learning_rate: float
    auxiliary: bool = False
    penalty_start: float = 0.8
    penalty_decay: float = 0.05


@dataclass(frozen=True, slots=True)
class Refinement:
    """Online self-refinement with every default taken: when a run pauses for new responses, and how these are weighed
    (`bilevel/importance.py`). Steps that are None are those of a pass over the data."""

    warmup_steps: int | None = None
    refresh_steps: int | None = None
    min_effective_share: float = 0.5
    response_weighting: str = VARIANTS[0]
    length_power: float = 1.0
    temperature: float = 1.0

    def is_due(self, step: int, steps_of_a_pass: int) -> bool:
        """Whether the run pauses after so many steps, however fresh its pool is."""
        first = steps_of_a_pass if self.warmup_steps is None else max(1, self.warmup_steps)
        since = step - first
        return since >= 0 and since % (self.refresh_steps or steps_of_a_pass) == 0


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
    checkpoint_steps: int | None = None  # see `checkpoints.is_due`
    gradient_checkpointing: bool = False
    max_loss_ratio: float = 3.0
    eval_steps: int = 0
    publish_best: bool = False
    packing: bool = False

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimiser step; the last step of an epoch may have fewer."""
        return self.per_device_batch_size * self.gradient_accumulation_steps


def plan(asked: Hyperparameters) -> Plan:
    """The hyperparameters with defaults for what is unset. Raises SpecError for a value out of range."""
    resolved = Plan(**_given(asked))
    positive = ("num_epochs", "learning_rate")
    not_negative = ("weight_decay", "max_grad_norm", "seed", "eval_steps")
    at_least_one = ("per_device_batch_size", "gradient_accumulation_steps", "checkpoint_steps")
    for name in positive:
        _check(name, resolved, lambda value: value > 0, "a number > 0")
    for name in not_negative:
        _check(name, resolved, lambda value: value >= 0, "a number >= 0")
    for name in at_least_one:
        _check(name, resolved, lambda value: value >= 1, "a whole number >= 1")
    _check("warmup_ratio", resolved, lambda value: 0 <= value <= 1, "a number in [0, 1]")
    _check("max_sequence_tokens", resolved, lambda value: value >= 2, "a whole number >= 2")
    _check("max_loss_ratio", resolved, lambda value: value == 0 or value >= 1, "a number >= 1, or 0 for never")
    _check("max_steps", resolved, lambda value: value >= 1, "a whole number >= 1; leave it unset for no limit")
    for name, words in (("lr_scheduler", LR_SCHEDULERS), ("dtype", DTYPES)):
        if getattr(resolved, name) not in words:
            raise SpecError(
                f"hyperparameters.{name}", f"is {getattr(resolved, name)!r}, expected one of {', '.join(words)}"
            )
    return resolved


def _check(
    name: str, resolved: object, good: Callable[[float], bool], expected: str, message: str = "hyperparameters"
) -> None:
    """Raises SpecError for a value that is not good; one that is None, for a default known only later, is."""
    value = getattr(resolved, name)
    if value is not None and (not math.isfinite(value) or not good(value)):
        raise SpecError(f"{message}.{name}", f"is {value}, expected {expected}")


def plan_lora(asked: LoraSpec) -> Lora:
    """The adapters with defaults for what is unset. Raises SpecError for a value out of range."""
    resolved = Lora(**_given(asked))
    _check("rank", resolved, lambda value: 1 <= value <= MAX_RANK, f"a whole number in [1, {MAX_RANK}]", "lora")
    _check("alpha", resolved, lambda value: value > 0, "a number > 0", "lora")
    _check("dropout", resolved, lambda value: 0 <= value < 1, "a number in [0, 1)", "lora")
    named = resolved.target_modules
    if len(named) > _MOST_MODULES or any(len(name) > _LONGEST_MODULE for name in named):
        raise SpecError(
            "lora.target_modules",
            f"has {len(named)} names of up to {max(map(len, named))} characters; expected at most {_MOST_MODULES} of at"
            f" most {_LONGEST_MODULE}",
        )
    return resolved


def plan_bilevel(asked: BilevelSpec) -> Bilevel:
    """The selection with defaults for what is unset. Raises SpecError for a value out of range."""
    if not asked.validation_data_uri:
        raise SpecError("bilevel.validation_data_uri", _NO_DATA)
    _check_digest("bilevel.validation_data_digest", asked.validation_data_digest)
    given = {name: value for name, value in _given(asked).items() if not name.startswith("validation_")}
    if given.setdefault("weighting", "sigmoid") not in SELECTORS:
        raise SpecError("bilevel.weighting", f"is {given['weighting']!r}, expected one of {', '.join(SELECTORS)}")
    given.setdefault("selector_learning_rate", LEARNING_RATES[given["weighting"]])
    resolved = Bilevel(**given)
    for name in ("penalty_start", "penalty_decay"):
        _check(name, resolved, lambda value: 0 <= value <= 1, "a number in [0, 1]", "bilevel")
    _check("selector_learning_rate", resolved, lambda value: value > 0, "a number > 0", "bilevel")
    return resolved


def plan_refinement(spec: RunSpec) -> Refinement:
    """The refinement with defaults for what is unset. Raises SpecError for a value out of range and without
    `bilevel`."""
    assert spec.refinement is not None
    if spec.bilevel is None:
        raise SpecError("refinement", "is set; expected `bilevel` with it: it goes by what a validation set asks for")
    resolved = Refinement(**_given(spec.refinement))
    if resolved.response_weighting not in VARIANTS:
        found, words = resolved.response_weighting, ", ".join(VARIANTS)
        raise SpecError("refinement.response_weighting", f"is {found!r}, expected one of {words}")
    _check("warmup_steps", resolved, lambda value: value >= 0, "a whole number >= 0", "refinement")
    _check("refresh_steps", resolved, lambda value: value >= 1, "a whole number >= 1", "refinement")
    for name in ("min_effective_share", "length_power"):
        _check(name, resolved, lambda value: 0 <= value <= 1, "a number in [0, 1]", "refinement")
    _check("temperature", resolved, lambda value: value > 0, "a number > 0", "refinement")
    return resolved


def _given(asked: object) -> dict[str, Any]:
    """The fields of a dataclass that were asked for."""
    values = ((f.name, getattr(asked, f.name)) for f in fields(asked))  # type: ignore[arg-type]
    return {name: value for name, value in values if value is not None}


def check_spec(spec: RunSpec) -> Plan:
    """The plan of a well-formed specification. Touches no file. Raises SpecError."""
    if not spec.base_uri:
        raise SpecError("base_model.uri", "is empty, expected a path or file:// URI of a model directory")
    if not spec.data_uri:
        raise SpecError("data_uri", _NO_DATA)
    uris = {"base_model.uri": spec.base_uri, "data_uri": spec.data_uri}
    uris |= {"eval_data_uri": spec.eval_data_uri, "output_uri": spec.output_uri}
    if spec.bilevel is not None:
        uris["bilevel.validation_data_uri"] = spec.bilevel.validation_data_uri
    for name, uri in uris.items():
        if len(uri) > _LONGEST_URI:
            raise SpecError(name, f"has {len(uri)} characters; expected at most {_LONGEST_URI}")
    _check_digest("base_model.digest", spec.base_digest)
    _check_digest("data_digest", spec.data_digest)
    resolved = plan(spec.hyperparameters)
    if resolved.publish_best and not (resolved.eval_steps and spec.eval_data_uri):
        raise SpecError(
            "hyperparameters.publish_best", "is true; expected false, or eval_steps >= 1 and an eval_data_uri"
        )
    return resolved


def _check_digest(path: str, digest: str) -> None:
    if digest and not is_digest(digest):
        raise SpecError(path, f"is {digest!r}, expected sha256: and 64 lower-case hexadecimal digits, or nothing")


def is_digest(text: str) -> bool:
    """True for `sha256:` and 64 lower-case hexadecimal digits."""
    word, _, digits = text.partition(":")
    return word == "sha256" and len(digits) == 64 and set(digits) <= set("0123456789abcdef")


def total_steps(plan: Plan, num_samples: int) -> int:
    """Optimiser steps that a run over `num_samples` (>= 1) takes, >= 1."""
    # 1.1 times 10 is 11, and no more, whatever doubles say.
    steps = max(1, math.ceil(plan.num_epochs * steps_per_epoch(plan, num_samples) - 1e-9))
    return min(steps, plan.max_steps) if plan.max_steps is not None else steps


def steps_per_epoch(plan: Plan, num_samples: int) -> int:
    """Optimiser steps of one pass over `num_samples` (>= 1), >= 1."""
    return math.ceil(math.ceil(num_samples / plan.per_device_batch_size) / plan.gradient_accumulation_steps)


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


def step_batches(samples: Sequence[int], plan: Plan) -> list[list[int]]:
    """The batches, in order, of an optimiser step's `samples`, which stand by length: like with like, or,
    where they are packed, dealt like cards, so that batches have about as many tokens each, and the largest takes no
    more memory than the others."""
    size = plan.per_device_batch_size
    if plan.packing:
        hands = math.ceil(len(samples) / size)
        return [list(samples[hand::hands]) for hand in range(hands)]
    return [list(samples[start : start + size]) for start in range(0, len(samples), size)]


def shared_out(batches: Sequence[list[int]], rank: int, processes: int) -> list[list[int]]:
    """Those of a step's batches, in order, that process `rank` of `processes` reads. All processes have as many, since
    they meet at each; where there are not enough for all, the last ones are empty."""
    filled = [*batches, *([] for _ in range(-len(batches) % processes))]
    return filled[rank::processes]


def fit_processes(plan: Plan, asked: Hyperparameters, processes: int) -> Plan:
    """The plan with a step's forward passes shared evenly. Where no batch was asked for, they are as many as the
    processes if need be, and smaller: how a step's samples are grouped changes no result. Raises SpecError where they
    cannot be shared."""
    if plan.gradient_accumulation_steps % processes == 0:
        return plan
    unset = asked.per_device_batch_size is None and asked.gradient_accumulation_steps is None
    if unset and plan.samples_per_step % processes == 0:
        each = plan.samples_per_step // processes
        return replace(plan, per_device_batch_size=each, gradient_accumulation_steps=processes)
    raise SpecError(
        "hyperparameters.gradient_accumulation_steps",
        f"is {plan.gradient_accumulation_steps}, expected a multiple of {processes}: this service trains with so "
        "many processes, on all its machines, which share the forward passes of a step",
    )


def validation_batch(num_validation: int, count: int, seed: int, step: int) -> list[int]:
    """Indices, all different, of the validation samples of optimiser step `step` (from 0): the next `count`, or all
    where there are no more, of an endless row of shuffles. A function of the step alone, so that a run that is taken up
    again needs to remember nothing."""
    count = min(count, num_validation)
    per_pass = num_validation // count
    shuffle, place = divmod(step, per_pass)
    order = np.random.default_rng([seed, shuffle, 1]).permutation(num_validation)
    return order[place * count : (place + 1) * count].tolist()


def is_spike(loss: float, before: Sequence[float], ratio: float) -> bool:
    """Whether a step's loss, in nats, is out of all proportion to those of the steps `before`: more than `ratio` times
    the largest (0: never), and more than a nat above it. Where a set is nearly learnt by heart, losses are so small
    that the ratio alone would take any new sample for a spike."""
    if not ratio or len(before) < MIN_LOSSES:
        return False
    return loss > ratio * max(before) and loss > max(before) + 1.0


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
