"""status, report, export: what a run has done, without changing it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.output import command, say, say_json
from burnish.coordinator.errors import LedgerError
from burnish.coordinator.export import ExportFormat, export
from burnish.coordinator.history import RunHistory
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import RunStatus, read_status
from burnish.report.collect import collect
from burnish.report.render import write_report

RunDir = Annotated[Path, typer.Argument(help="Run directory, as given to --out.", metavar="DIR")]
_WATCH_SECONDS = 1.0


def write_report_of(directory: Path, *, truth: str = "", path: Path | None = None) -> Path:
    """Writes the report of the run in `directory`; `truth` overrides what the run was told."""
    paths = RunPaths(directory)
    with RunHistory.open(directory) as history:
        options = history.run.config.get("options")
        told = options.get("truth") if isinstance(options, dict) else None
        data = collect(history, truth=truth or told or "")
    return write_report(data, path or paths.report)


@command
def report(
    directory: RunDir,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: report.html in DIR.", metavar="FILE")
    ] = None,
    truth: Annotated[
        str,
        typer.Option(
            "--truth",
            help="What is known to be wrong: JSON lines of id and flaw, or the column that holds the right response.",
            metavar="FILE|COLUMN",
        ),
    ] = "",
) -> None:
    """Writes the report of a run as one HTML file, and prints its path."""
    say(str(write_report_of(directory, truth=truth, path=out)))


@command
def export_command(
    directory: RunDir,
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.", metavar="DIR")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Layout of the files.")] = ExportFormat.SOURCE,
) -> None:
    """Writes a run's data set for other tools, with the provenance of each row, and prints the paths.

    Rows that nothing touched go out as they came in, all columns included.
    """
    with RunHistory.open(directory) as history:
        for path in export(history, form, to):
            say(str(path))


@command
def status(
    directory: RunDir,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How far a run is, also while it goes on."""
    before: RunStatus | None = None
    while True:
        found = read_status(directory)
        if found is None:
            raise LedgerError(f"{directory} holds no run; expected the folder that was given to --out.")
        if found != before:
            before = found
            say_json(asdict(found)) if json_output else _say_status(found)
        if not watch or found.state != "running":
            break
        time.sleep(_WATCH_SECONDS)


def _say_status(found: RunStatus) -> None:
    say(f"{found.run_id}: {found.state}" + (f" (process {found.pid})" if found.state == "running" else ""))
    step = found.step
    if step is not None and found.state != "done":
        last = step.round > step.rounds
        place = "before round 1" if not step.round else "last" if last else f"round {step.round} of {step.rounds}"
        left = "" if step.seconds_left is None else f", about {step.seconds_left:.0f} s left in this step"
        rate = "" if step.rate is None else f", {step.rate:.1f}/s"
        say(f"{place}: {step.title}, {step.done} of {step.total or 'unknown'}{rate}{left}")
    if found.message:
        say(found.message)
