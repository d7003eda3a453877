"""Running recipes from Python: the same runs as `burnish run`, in the same directories (docs/python.md).

    run_recipe(FilterSettings(data=..., model=...), client, Path("runs/first"))

Everything that is public of the coordinator is here; what else is in `burnish.coordinator` may change.
"""

from __future__ import annotations

from burnish.coordinator.errors import (
    CoordinatorError,
    DataAway,
    DataError,
    DiskFull,
    InputError,
    Interrupted,
    LedgerBusy,
    LedgerError,
    RunMismatch,
    StepFailed,
)
from burnish.coordinator.formats import Columns
from burnish.coordinator.history import RunHistory
from burnish.coordinator.loop import (
    RunOptions,
    RunSummary,
    finished,
    resume,
    resume_async,
    run_recipe,
    run_recipe_async,
)
from burnish.coordinator.progress import Observer, StepProgress
from burnish.coordinator.recipes.auto.settings import AutoSettings
from burnish.coordinator.recipes.base import RecipeSettings, SamplingSettings, TrainingSettings
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.recipes.bmo.settings import BmoSettings
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings

__all__ = [
    "AutoSettings",
    "BdsSettings",
    "BmoSettings",
    "ClearSettings",
    "Columns",
    "CoordinatorError",
    "DataAway",
    "DataError",
    "DiskFull",
    "FilterSettings",
    "InputError",
    "Interrupted",
    "LedgerBusy",
    "LedgerError",
    "MadsSettings",
    "MiddoSettings",
    "Observer",
    "RecipeSettings",
    "RunHistory",
    "RunMismatch",
    "RunOptions",
    "RunSummary",
    "SamplingSettings",
    "StepFailed",
    "StepProgress",
    "TrainingSettings",
    "finished",
    "resume",
    "resume_async",
    "run_recipe",
    "run_recipe_async",
]
