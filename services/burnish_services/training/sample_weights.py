"""The weights that a bilevel selection has learnt, on disk: a snapshot after each epoch and at the end. No torch.

    weights/names.json       the samples' names, in the order of the snapshots' entries
    weights/<step>.npz       logits and weights, float32, after that many optimiser steps

Outlives the run's checkpoints: it is a result. A run that is taken up again writes the same snapshots anew.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from burnish_services.runtime.files import write_whole

_NAMES = "names.json"


@dataclass(frozen=True, slots=True)
class WeightSnapshot:
    """Logits and weights of all samples, in the order of `names`, after `step` optimiser steps."""

    step: int
    names: list[str]
    logits: NDArray[np.float32]
    weights: NDArray[np.float32]


def write_names(folder: Path, names: Sequence[str]) -> None:
    """Writes down whose weights will follow. Raises OSError."""
    folder.mkdir(exist_ok=True)
    write_whole(folder / _NAMES, json.dumps(list(names), ensure_ascii=False).encode(), durable=True)


def write_snapshot(folder: Path, step: int, logits: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Adds a snapshot, whole or not at all. Raises OSError."""
    content = io.BytesIO()
    np.savez(content, logits=logits.astype(np.float32), weights=weights.astype(np.float32))
    write_whole(folder / f"{step}.npz", content.getvalue(), durable=True)


def snapshot_steps(folder: Path) -> list[int]:
    """The steps after which there are snapshots, in order; empty where there are none."""
    return sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())


def read_snapshots(folder: Path, after_step: int) -> Iterator[WeightSnapshot]:
    """The snapshots of more than `after_step` steps, in order. Raises OSError, ValueError."""
    steps = [step for step in snapshot_steps(folder) if step > after_step]
    names = json.loads((folder / _NAMES).read_bytes()) if steps else []
    for step in steps:
        with np.load(folder / f"{step}.npz", allow_pickle=False) as arrays:
            yield WeightSnapshot(step, names, arrays["logits"], arrays["weights"])
