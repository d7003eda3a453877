"""An arm of a comparison: a model trained on other rows, or otherwise, and its held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from burnish._types import Hyperparameters, ModelRef
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.controls import Draw
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


async def measure_trusted(
    run: AnyRun,
    rounds: tuple[int, int],
    base: ModelRef,
    training: Sequence[DataRow],
    trusted: Sequence[DataRow],
    steps: int,
) -> None:
    """What else trusted rows are good for: `training` and they (direct mixing), and they alone. These are few: they are
    trained on for as many `steps` as the recipe's own model, in as many passes as that takes. At a round each."""
    mixed, alone = rounds
    await measure_arm(run, mixed, base, [*training, *trusted])
    # Whatever they do to the loss, a model that is there to compare with stops no run.
    often = replace(run.settings.hyperparameters(alone), num_epochs=float(steps), max_steps=steps, max_loss_ratio=0.0)
    await measure_arm(run, alone, base, trusted, hyperparameters=often)


async def measure_draws(run: AnyRun, first_round: int, base: ModelRef, draws: Sequence[Draw]) -> None:
    """The same of random controls, each at a round of its own."""
    for number, draw in enumerate(draws, start=first_round):
        how = None if draw.seed is None else replace(run.settings.hyperparameters(number), seed=draw.seed)
        await measure_arm(run, number, base, draw.rows, hyperparameters=how)
