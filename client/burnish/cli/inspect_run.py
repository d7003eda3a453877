"""status, report, export: what a run has done, without changing it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish.cli.output import command, say, say_json, tell
from burnish.coordinator.errors import NoRun
from burnish.coordinator.export import ExportFormat, export
from burnish.coordinator.history import RunHistory
from burnish.coordinator.paths import RunPaths
from burnish.coordinator.progress import RunStatus, StepProgress, read_status
from burnish.coordinator.sweep_status import PointStatus, SweepStatus, read_sweep
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


_FORMATS = (
    "source: as the data came; llamafactory: data.json and dataset_info.json; trl: prompt and completion; messages:"
    " chat turns, as axolotl's chat_template reads them; alpaca: instruction, input, output; parquet: messages with id"
    " and origin; signals: what was measured and decided of every row, instead of the data."
)


@command
def export_command(
    directory: RunDir,
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.", metavar="DIR")],
    form: Annotated[ExportFormat, typer.Option("--format", help=_FORMATS)] = ExportFormat.SOURCE,
) -> None:
    """Writes a run's data set for other tools, with the provenance of each row, and prints the paths.

    Rows that nothing touched go out as they came in, all columns included. Of a run that is not finished it is what
    the newest round began with, which is told.
    """
    with RunHistory.open(directory) as history:
        if history.run.finished_at is None and form is not ExportFormat.SIGNALS:
            tell(f"note: this run is not finished (burnish resume {directory}): these rows are what its")
            tell("newest round began with, in the first round the data as it came")
        for path in export(history, form, to):
            say(str(path))


@command
def status(
    directory: RunDir,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run, or all of a sweep, ends.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How far a run is, also while it goes on; in the folder of a sweep, how far each of its points is."""
    before: RunStatus | SweepStatus | None = None
    said: Sequence[str] = ()
    while True:
        found = read_sweep(directory) or read_status(directory)
        if found is None:
            raise NoRun(directory)
        if json_output and found != before:
            say_json(_as_record(found))
        elif found != before:
            lines = list(_of_sweep(found)) if isinstance(found, SweepStatus) else list(_of_run(found))
            for line in _news(lines, said) if isinstance(found, SweepStatus) else lines:
                say(line)
            said = lines
        before = found
        if not watch or not found.at_work:
            break
        time.sleep(_WATCH_SECONDS)


def _as_record(found: RunStatus | SweepStatus) -> dict[str, Any]:
    if isinstance(found, RunStatus):
        return asdict(found) | ({"message": found.hearsay} if found.hearsay else {})
    return asdict(found)


def _news(lines: Sequence[str], said: Sequence[str]) -> Iterator[str]:
    """The lines that were not said just before."""
    return (line for line in lines if line not in said)


def _of_run(found: RunStatus) -> Iterator[str]:
    yield f"{found.run_id or 'a new run'}: {_state(found)}"
    if found.step is not None and found.state != "done":
        yield _place(found.step)
    yield from filter(None, (found.message, found.hearsay))


def _of_sweep(found: SweepStatus) -> Iterator[str]:
    count = Counter(point.state for point in found.points)
    failed = f", {count['failed']} failed" if count["failed"] else ""
    yield f"{count['done']} of {len(found.points)} points done{failed}{_at_work(found)}"
    yield from map(_of_point, found.points)


def _at_work(found: SweepStatus) -> str:
    for point in found.points:
        if point.status is not None and point.status.at_work:
            return f"; {point.point}: {_state(point.status)}"
    if found.pid is not None:
        who = f"process {found.pid}" if found.pid else "another process"
        return f"; {who} makes ready for the next one"
    left = any(point.state != "done" for point in found.points)
    return "; nobody works on the others: the same command goes on with them" if left else ""


def _of_point(point: PointStatus) -> str:
    """One line."""
    status = point.status
    at_work = status is not None and status.at_work
    details = [_state(status) if status is not None and at_work else point.state]
    if status is not None and status.step is not None and point.state not in ("done", "failed", "not begun"):
        details.append(_place(status.step))
    hearsay = "" if status is None else status.hearsay
    told = "; ".join(filter(None, (", ".join(details), " ".join(point.message.split()), hearsay)))
    return f"{point.point}: {told}"


def _state(found: RunStatus) -> str:
    return found.state + (f" (process {found.pid})" if found.at_work else "")


def _place(step: StepProgress) -> str:
    last = step.round > step.rounds
    place = "before round 1" if not step.round else "last" if last else f"round {step.round} of {step.rounds}"
    left = "" if step.seconds_left is None else f", about {step.seconds_left:.0f} s left in this step"
    rate = "" if step.rate is None else f", {step.rate:.1f}/s"
    return f"{place}: {step.title}, {step.done} of {step.total or 'unknown'}{rate}{left}"
