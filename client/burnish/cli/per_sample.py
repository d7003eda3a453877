"""What the commands for one capability share: their options, and a JSON line for every sample.

A sample that fails keeps its line, with `error` and no numbers; the command then says how many and ends with 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from burnish._types import ItemStatus, Sample
from burnish.cli.output import complain, lines_to, write_line
from burnish.cli.progress import Bars

BATCH = 64  # samples between two steps of the progress bar; the client splits further where a service wants less


def _absolute(model: str) -> str:
    """A directory that is here by its full name, since services have a working directory of their own."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _writable(path: Path | None) -> Path | None:
    """Where a file can be put: told before hours of work would be lost for it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise typer.BadParameter(f"{path} cannot be written; expected a file in a folder that is there")
    return path


ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="Directory of the model, or s3://BUCKET/PREFIX.", metavar="DIR|URI", callback=_absolute
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="File to write; default: standard output.", metavar="FILE", callback=_writable),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Only the first N samples.", min=1)]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of sampling.", min=0)]

T = TypeVar("T")
State = Path("burnish-state")


def each_sample(
    step: str | None,
    samples: Sequence[Sample],
    send: Callable[[Sequence[Sample]], Iterator[tuple[str, ItemStatus, dict[str, Any]]]],
    out: Path | None,
) -> None:
    """Writes what `send` answers for every part, under a progress bar named `step`, where there is one; ends with code
    1 where samples failed."""
    failed = 0
    first = ""
    with lines_to(out) as stream, Bars(visible=step is not None) as bars:
        for part in bars.over(step or "", parts(samples), total=len(samples), size=len):
            for sample_id, status, record in send(part):
                if not status.ok:
                    failed += 1
                    first = first or f"{sample_id}: {status.message}"
                    error = {"reason": status.reason, "message": status.message, "retryable": status.retryable}
                    record = {key: record[key] for key in ("attempts",) if key in record} | {"error": error}
                write_line(stream, {"id": sample_id} | record)
    if failed:
        complain(f"{failed} of {len(samples)} samples failed; the first: {first}")
        raise typer.Exit(1)


def parts(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in portions of BATCH."""
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
