"""Imported once, by the process that the others are forked from: all that they need."""

from __future__ import annotations

import importlib
import warnings

# Forked here before anything of it ran.
warnings.filterwarnings("ignore", message="lancedb fork support", category=RuntimeWarning)

for name in (
    *(f"burnish_services.{role}.servicer" for role in ("scoring", "embedding", "rewriting", "training")),
    *("burnish_services.__main__", "burnish_services.engine.fake.engine", "burnish_services.embedding.tables"),
    *("burnish.coordinator.loop", "burnish.coordinator.recipes.registry", "tests.chaos.lane"),
):
    importlib.import_module(name)
