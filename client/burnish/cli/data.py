"""The options that say which data a command reads, and how: `with_reading` gives a command these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish._errors import UsageError
from burnish._types import Sample
from burnish.cli.expanding import REQUIRED, expanding
from burnish.cli.output import tell
from burnish.coordinator.formats import Columns, glance, load
from burnish.coordinator.paths import is_remote
from burnish.coordinator.recipes.base import RecipeSettings

BUNDLED = "demo"  # what `--data` is given for the bundled set

DataOption = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="Data set: .json, .jsonl, .csv, .parquet, a folder or glob of them, a saved Hugging Face data set, or"
        " `demo` for the bundled one; for runs in object storage, too. May be repeated.",
        metavar="PATH",
    ),
]
SkipOption = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Leave out rows that are no sample instead of refusing the file.")
]
_COLUMNS = [field.name for field in fields(Columns)]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help=f"What the data call a column, such as output=answer; of {', '.join(_COLUMNS)}. May be repeated.",
        metavar="NAME=THEIRS",
    ),
]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read, and how. `data`: paths, folders, globs and places in object storage."""

    data: tuple[str, ...]
    columns: Columns
    skip_bad_rows: bool

    def settings(self) -> dict[str, Any]:
        """The same as a recipe's settings."""
        return {"data": list(self.data), "columns": self.columns, "skip_bad_rows": self.skip_bad_rows}

    def samples(self, limit: int | None) -> list[Sample]:
        """The samples in file order; warnings go to standard error. Raises DataError."""
        loaded = load(list(self.data), columns=self.columns, skip_bad_rows=self.skip_bad_rows)
        for warning in loaded.warnings:
            tell(f"note: {warning}")
        return list(loaded.samples[:limit])


def bundled(name: str) -> Path:
    """Path of a bundled data file, such as `demo.jsonl`."""
    return Path(str(resources.files("burnish") / "data" / name))


def data_paths(given: list[str]) -> list[Path | str]:
    """What `--data` names; `demo` is the bundled set unless there is a file of that name."""
    return [bundled("demo.jsonl") if p == BUNDLED and not Path(p).exists() else p for p in given]


def check_place(out: Path) -> None:
    """Raises UsageError where a run's folder cannot be one."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder, which is made where it is missing.")


def check_data(settings: RecipeSettings) -> None:
    """Looks at the files that a run is to read, before services are started for nothing. Raises DataError."""
    for paths in settings.files().values():
        if here := [path for path in paths if not is_remote(path)]:
            glance(here, settings.columns, skip_bad_rows=settings.skip_bad_rows)


def columns_of(given: Sequence[str]) -> Columns:
    """From NAME=THEIRS. Raises UsageError."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, theirs = text.partition("=")
        if not equals or not theirs or name not in _COLUMNS:
            raise UsageError(
                f"--column {text}: expected NAME=THEIRS, such as output=answer, with NAME one of {', '.join(_COLUMNS)}."
            )
        found[name] = theirs
    return Columns(**found)


def _reading(chosen: dict[str, Any]) -> dict[str, Any]:
    paths = tuple(str(path) for path in data_paths(chosen["data"]))
    return {"reading": Reading(paths, columns_of(chosen["column"] or ()), chosen["skip_bad_rows"])}


# Adds --data, --column and --skip-bad-rows to a command that has a parameter `reading: Reading`.
with_reading = expanding(
    {"data": (DataOption, REQUIRED), "column": (ColumnOption, None), "skip_bad_rows": (SkipOption, False)},
    ["reading"],
    _reading,
    first=True,
)
