"""What training runs are asked for beside hyperparameters, and the weights that they learn. See training.proto."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adapters, merged into the weights when the model is published unless `adapter_only`; None takes the
    service's default."""

    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()
    adapter_only: bool | None = None


@dataclass(frozen=True, slots=True)
class BilevelSelection:
    """Weights for samples, learnt from a validation set while training; None takes the service's default."""

    validation_data_uri: str
    validation_data_digest: str = ""
    weighting: str | None = None
    auxiliary: bool | None = None
    penalty_start: float | None = None
    penalty_decay: float | None = None
    selector_learning_rate: float | None = None


@dataclass(frozen=True, slots=True)
class UploadedData:
    """A data file that the service has now: `uri` is what runs may name it by, `size` its bytes, `num_lines` its lines
    that are not blank."""

    uri: str
    digest: str
    size: int
    num_lines: int


@dataclass(frozen=True, slots=True)
class SelfRefinement:
    """When a run pauses for responses of its own, and how these are weighed; None takes the service's default."""

    warmup_steps: int | None = None
    refresh_steps: int | None = None
    min_effective_share: float | None = None
    response_weighting: str | None = None
    length_power: float | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SampleWeights:
    """What a run has learnt about its samples after `step` optimiser steps. `weights` and `logits` have an entry for
    each of `ids`, in the order of the data."""

    step: int
    ids: tuple[str, ...]
    weights: NDArray[np.float32]
    logits: NDArray[np.float32]
