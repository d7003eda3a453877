"""The runs of a cell: which there are to be, and what those that have ended made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.efficacy.arms import ALIKE, ARMS, NOISY, plain_settings, run_folder, settings_for
from bench.efficacy.cell import Cell
from bench.efficacy.control import draws
from burnish import ModelRef
from burnish.coordinator.errors import LedgerError
from burnish.coordinator.history import RunHistory
from burnish.coordinator.recipes.base import RecipeSettings
from burnish.coordinator.records import ModelRecord


@dataclass(frozen=True)
class Made:
    """What an ended run made: its last model, and how many rows that was trained on."""

    model: ModelRef
    rows: int


@dataclass(frozen=True)
class Planned:
    """A run, by name, and what it is made by."""

    name: str
    settings: RecipeSettings
    folder: Path

    @property
    def told(self) -> dict[str, Any]:
        """Its recipe's settings, but for what all arms of a cell have alike and where files are."""
        return self.settings.model_dump(mode="json", exclude={*ALIKE, *self.settings.files()})

    @classmethod
    def of(cls, cell: Cell, name: str, settings: RecipeSettings) -> Planned:
        """In the cell's folder."""
        return cls(name, settings, run_folder(cell, settings))


def arm_runs(cell: Cell) -> Iterator[Planned]:
    """One of each arm. Raises InputError where a setting is wrong."""
    for name in cell.arms:
        yield Planned.of(cell, name, settings_for(cell, name))


def control_runs(cell: Cell, rows: int) -> Iterator[Planned]:
    """Those of random rows, as many as some arm has."""
    for path in draws(cell, rows):
        yield Planned.of(cell, path.stem, plain_settings(cell, path))


def control_sizes(cell: Cell, arms: Iterable[Planned]) -> list[int]:
    """How many rows there must be controls of, as far as arms have ended."""
    found = [one for arm in arms if ARMS[arm.name].chooses and (one := made(arm.folder)) is not None]
    return sorted({one.rows for one in found} - set(cell.known_rows)) if cell.random_subsets else []


def made(folder: Path) -> Made | None:
    """None where there is no run, or it has not ended. Whether the model is still there nobody asks."""
    try:
        with RunHistory.open(folder) as history:
            if history.run.finished_at is None:
                return None
            model = last_model(history)
            return Made(ModelRef(model.uri, model.digest), history.datasets()[-1].num_rows)
    except LedgerError:
        return None


def base_of(runs: Iterable[Planned]) -> ModelRef | None:
    """The base model of runs that have ended, by digest; None where none has."""
    for run in runs:
        if made(run.folder) is not None:
            with RunHistory.open(run.folder) as history:
                found = next((one for one in history.models() if one.role == "base"), None)
            if found is not None:
                return ModelRef(found.uri, found.digest)
    return None


def trained_by(cell: Cell) -> ModelRef:
    """The model of all rows. Raises SystemExit where it is gone."""
    found = made(run_folder(cell, settings_for(cell, NOISY)))
    if found is None or not Path(found.model.uri).is_dir():
        raise SystemExit(f"{cell.folder}: the base model is gone; delete that folder, or take another --out")
    return found.model


def last_model(history: RunHistory) -> ModelRecord:
    """The one that was trained on the last data set."""
    last = history.datasets()[-1].round
    return next(one for one in history.models() if (one.role, one.round) == ("trained", last))
