"""An arm of a comparison: a model trained on other rows, or otherwise, and its held-out loss."""

from __future__ import annotations

from collections.abc import Sequence

from burnish._types import Hyperparameters, ModelRef
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.steps.measure import evaluate
from burnish.coordinator.steps.stage import AnyRun
from burnish.coordinator.steps.train import prune, train


async def measure_arm(
    run: AnyRun,
    round_number: int,
    base: ModelRef,
    rows: Sequence[DataRow] | None = None,
    *,
    hyperparameters: Hyperparameters | None = None,
) -> None:
    """Trains `base` as `train` does, measures it, and keeps the model only where all are kept. Raises StepFailed."""
    await evaluate(run, round_number, await train(run, round_number, base, rows, hyperparameters=hyperparameters))
    prune(run, round_number)
