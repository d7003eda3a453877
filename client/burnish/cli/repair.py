"""repair: what is whole of a damaged ledger, in a new one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.output import command, say, say_json
from burnish.coordinator.errors import NoRun
from burnish.coordinator.history import points_of
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.repair import Repair, repair


@command
def repair_command(
    directory: Annotated[Path, typer.Argument(help="Run directory, as given to --out.", metavar="DIR")],
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Saves what can be read of a damaged ledger into a new one, and keeps the damaged one beside it.

    `burnish resume`, or the command that began the run, then goes on: it finds what was saved, measures what is
    missing, and takes up the models that the training service has trained. A ledger that is whole is left as it is.
    """
    path = RunPaths.find(directory).ledger
    if not path.exists():
        raise NoRun(directory)
    done = repair(path)
    say_json(asdict(done)) if json_output else _say(done, path, directory)


def _say(done: Repair, path: Path, directory: Path) -> None:
    if done.moved_to is None:
        say(f"{path} is whole; nothing was changed.")
        return
    for table in done.tables:
        lost = f", at least {table.lost} lost" if table.lost else ""
        say(f"{table.table}: {table.kept} rows saved{lost}")
    shared = bool(points_of(path))
    how = "To go on, repeat the sweep: the same command." if shared else f"Go on with: burnish resume {directory}"
    say(f"The damaged ledger is now {done.moved_to}. {how}")
