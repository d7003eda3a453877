"""Plain training as a recipe: a model from all rows that it is given, and its held-out loss. What recipes are compared
with are runs of it, in the recipes' own ledger."""

from __future__ import annotations

from typing import ClassVar

from burnish._types import Hyperparameters
from burnish.coordinator.recipes.base import RecipeSettings
from burnish.coordinator.steps.arm import measure_arm
from burnish.coordinator.steps.measure import base_model, evaluate
from burnish.coordinator.steps.read import read
from burnish.coordinator.steps.stage import RunContext

PLAIN = "plain"


class PlainSettings(RecipeSettings):
    """One plain training."""

    RECIPE: ClassVar[str] = PLAIN
    STEPS: ClassVar[tuple[str, ...]] = ("read", "train", "evaluate")

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        return ("scoring", "training")

    def hyperparameters(self, round_number: int) -> Hyperparameters:
        """All models that are compared are trained alike, with the same seed."""
        return super().hyperparameters(0)


async def plain(run: RunContext[PlainSettings]) -> None:
    """Trains on the data as they came."""
    await read(run)
    base = await base_model(run)
    await evaluate(run, 0, base)
    await measure_arm(run, 1, base)
