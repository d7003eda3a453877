"""A run of each recipe, as the steps that only it has take it."""

from __future__ import annotations

from burnish.coordinator.recipes.base import HoldSettings
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.recipes.bmo.settings import BmoSettings
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.steps.stage import RunContext

MiddoRun = RunContext[MiddoSettings]
ClearRun = RunContext[ClearSettings]
MadsRun = RunContext[MadsSettings]
BdsRun = RunContext[BdsSettings]
BmoRun = RunContext[BmoSettings]
FilterRun = RunContext[FilterSettings]
HoldRun = RunContext[HoldSettings]  # of any recipe that can hold the set's size
