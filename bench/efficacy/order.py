"""What one process of this bench is asked for: one part of one seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.efficacy.task import Files

PLAIN = "plain"  # the models that no recipe trains
RECIPES = "recipes"  # the recipes, one after the other on one ledger, so that what they share is trained once


@dataclass(frozen=True)
class Order:
    """One part of one seed. `training`: hyperparameters of all models alike. `settings`: more of a recipe's, by its
    name. `until`: seconds since the epoch after which no model is begun; infinite for never."""

    part: str
    seed: int
    folder: str
    model: str
    engine: str
    dtype: str
    recipes: tuple[str, ...]
    training: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    until: float

    @property
    def files(self) -> Files:
        """The seed's data, which is there."""
        return Files(Path(self.folder) / "data")

    def recipe_dir(self, recipe: str) -> Path:
        """Where a recipe's run is."""
        return Path(self.folder) / recipe

    @property
    def ledger(self) -> Path:
        """The one that the recipes share."""
        return Path(self.folder) / "ledger.duckdb"

    @property
    def outcome(self) -> Path:
        """What the plain part has found so far, as JSON: an `Outcome`."""
        return Path(self.folder) / f"{self.part}.json"

    def text(self) -> str:
        """As JSON; `parse` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Order:
        """What `text` made."""
        values = json.loads(text)
        return cls(**{**values, "recipes": tuple(values["recipes"])})


@dataclass(frozen=True)
class Outcome:
    """What was found. `losses`: held-out loss by arm, nats per response token. `weights`: by recipe, what its weights
    are worth (`measures.Judged`, as a mapping). `seconds`: by arm, what training took, where it was trained here."""

    losses: Mapping[str, float]
    weights: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        new = path.with_suffix(".new")
        new.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        new.replace(path)

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """What is there; nothing found where no file is."""
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls({}, {}, {})
