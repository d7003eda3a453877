"""All recipes: their names, their settings, and their methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from burnish.coordinator.errors import LedgerTooNew
from burnish.coordinator.recipes.auto.settings import AutoSettings
from burnish.coordinator.recipes.base import RecipeSettings
from burnish.coordinator.recipes.bds.loop import bds
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.recipes.bmo.loop import bmo
from burnish.coordinator.recipes.bmo.settings import BmoSettings
from burnish.coordinator.recipes.clear.loop import clear
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.filter.loop import filter_by_signal
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.mads.loop import mads
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.recipes.middo.loop import middo
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from burnish.coordinator.records import RunRecord

SettingsT = TypeVar("SettingsT", bound=RecipeSettings)
SETTINGS: dict[str, type[RecipeSettings]] = {
    kind.RECIPE: kind
    for kind in (MiddoSettings, ClearSettings, MadsSettings, BdsSettings, BmoSettings, FilterSettings, AutoSettings)
}
METHODS: dict[str, Callable[[Any], Awaitable[None]]] = {
    "middo": middo,
    "clear": clear,
    "mads": mads,
    "bds": bds,
    "bmo": bmo,
    "filter": filter_by_signal,
    "auto": filter_by_signal,  # with other defaults
}


def settings_of(recipe: str) -> type[RecipeSettings]:
    """The settings of the recipe of that name. Raises LedgerTooNew: only a ledger can name one that is not there."""
    if recipe not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise LedgerTooNew(
            f"The run is of recipe {recipe!r}; this Burnish knows {known}. Use the newer one that began it."
        )
    return SETTINGS[recipe]


def settings_in(run: RunRecord, kind: type[SettingsT]) -> SettingsT:
    """The settings of a run, as its ledger has them, of a recipe that has this `kind`. Raises LedgerTooNew and
    InputError."""
    settings = settings_of(run.recipe).stored(run.config["settings"])
    assert isinstance(settings, kind)
    return settings
