"""Runs of filtering, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from burnish import Client
from burnish.coordinator.loop import RunOptions, RunSummary, run_recipe
from burnish.coordinator.recipes.filter.settings import FilterSettings
from tests.e2e.support import Watcher


def filtered(client: Client, data: Path, out: Path, watcher: Watcher | None = None, **more: Any) -> RunSummary:
    """By a signal of fold models unless `more` says otherwise."""
    keep = more.pop("keep_models", "all")
    asked = {"data": str(data), "model": "base", "seed": 7, "signal": "cross_weakest"}
    settings = FilterSettings(**(asked | more))
    options = RunOptions(batch_size=10, keep_models=keep)
    return run_recipe(settings, client, out, options=options, observer=watcher)


def lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return list(map(json.loads, stream))


def prompts(path: Path) -> set[str]:
    return {line["messages"][0]["content"] for line in lines(path)}
