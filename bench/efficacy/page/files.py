"""Results files of the bench in, the page out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.efficacy.page.data import Efficacy
from bench.efficacy.page.render import render
from bench.efficacy.record import Record


def read_files(paths: Sequence[Path]) -> list[Record]:
    """What is in results files. Raises SystemExit where one is not there, or has no results of this bench."""
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise SystemExit(f"{', '.join(missing)}: not there; `make bench-efficacy` writes bench/results/efficacy.json")
    found: list[Record] = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from error
        if not isinstance(document, dict) or not document.get("cells"):
            raise SystemExit(
                f"{path}: the results have no cells; expected a file that `python -m bench.efficacy` wrote"
            )
        found.append(document)
    return found


def write_page(found: Efficacy, path: Path) -> None:
    """The page, as one file that needs nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(found), encoding="utf-8")
