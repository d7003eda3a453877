"""The options that say which data a command reads."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from burnish._types import Sample
from burnish.cli.output import errors
from burnish.coordinator.formats import load

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


def bundled(name: str) -> Path:
    """Path of a bundled data file, such as `demo.jsonl`."""
    return Path(str(resources.files("burnish") / "data" / name))


def data_paths(given: list[str]) -> list[Path | str]:
    """What `--data` names; `demo` is the bundled set unless there is a file of that name."""
    return [bundled("demo.jsonl") if p == BUNDLED and not Path(p).exists() else p for p in given]


def load_samples(given: list[str], *, limit: int | None, skip_bad_rows: bool) -> list[Sample]:
    """The samples in file order; warnings go to standard error. Raises DataError."""
    loaded = load(data_paths(given), skip_bad_rows=skip_bad_rows)
    for warning in loaded.warnings:
        errors.print(f"note: {warning}", style="dim", markup=False)
    return list(loaded.samples[:limit])
