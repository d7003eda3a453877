"""What the commands for one capability share: their options, and a JSON line for every sample.

A sample that fails keeps its line, with `error` and no numbers; the command then says how many and ends with 1. What
goes to a file is kept from part to part (`partial.py`), so that the same command goes on where one was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from burnish import __version__
from burnish._types import ItemStatus, ModelVersion, Sample
from burnish.cli.output import complain, lines_to, tell, write_line
from burnish.cli.partial import partial
from burnish.cli.progress import Bars
from burnish.coordinator.content import dataset_digest, digest_of, sample_hash
from burnish.coordinator.steps.stage import same_prompts, same_version

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
Answer = tuple[str, ItemStatus, dict[str, Any]]  # a sample's id, what became of it, and the rest of its line

# Failures that other limits of the service or of the client would not have, and that cost nothing to ask about again.
_OF_LENGTH = frozenset({"TOO_LONG", "TOO_LARGE"})


@dataclass(frozen=True, slots=True)
class MadeBy:
    """What answers: weights, prompts by their digest, and another model that has a part in it by its own."""

    model: ModelVersion
    prompts: str = ""
    helper: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a service said to a part of the samples, in order, and by which weights and prompts."""

    model: ModelVersion
    answers: Sequence[Answer]
    prompts: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What the command `name` asks a service about samples. `options` are all those that its answers depend on;
    `made_by` asks who would answer now."""

    name: str
    service: str
    options: Mapping[str, object]
    send: Callable[[Sequence[Sample]], Answers]
    made_by: Callable[[], MadeBy]


def each_sample(work: Work, samples: Sequence[Sample], out: Path | None) -> None:
    """Writes what the service answers for each, under a progress bar; ends with code 1 where samples failed. Raises
    CoordinatorError where another command writes to `out`, StepFailed where the service changes in the midst."""
    if out is None:
        asked = chain.from_iterable(answered.answers for answered in _asked(work, samples))
        write_answers(asked, len(samples), None)
        return
    made_by = work.made_by()
    with partial(out, _made_of(work, made_by, samples)) as kept:
        missing = [one for one in samples if one.id not in kept.ids or _may_change(kept.errors.get(one.id))]
        if kept.ids:
            tell(f"note: {len(samples) - len(missing)} of {len(samples)} results are there from before.")
        for answered in _asked(work, missing):
            same_version(made_by.model, answered.model, work.service)
            same_prompts(made_by.prompts, answered.prompts, work.service)
            kept.add([_line(*answer) for answer in answered.answers])
        again = sum(bool(error["retryable"]) for error in kept.errors.values())
        kept.become([sample.id for sample in samples], finished=not again)
    failed = [(sample.id, kept.errors[sample.id]) for sample in samples if sample.id in kept.errors]
    more = f". The same command asks again for {again} that failed for the moment" if again else ""
    _end(failed, len(samples), more)


def write_answers(answers: Iterable[Answer], total: int, out: Path | None) -> None:
    """Writes a line for each of `total` answers, as they come; ends with code 1 where samples failed."""
    failed: list[tuple[str, Mapping[str, Any]]] = []
    with lines_to(out) as stream:
        for answer in answers:
            line = _line(*answer)
            if "error" in line:
                failed.append((line["id"], line["error"]))
            write_line(stream, line)
    _end(failed, total)


def parts(items: Sequence[T]) -> list[Sequence[T]]:
    """The items in portions of BATCH."""
    return [items[start : start + BATCH] for start in range(0, len(items), BATCH)]


def _asked(work: Work, samples: Sequence[Sample]) -> Iterator[Answers]:
    """What the service says to each part of the samples."""
    with Bars() as bars:
        for part in bars.over(work.name, parts(samples), total=len(samples), size=len):
            yield work.send(part)


def _made_of(work: Work, made_by: MadeBy, samples: Sequence[Sample]) -> str:
    """A digest of all that lines depend on; where the model lies is no part of that."""
    return digest_of(
        {
            "release": __version__,
            "command": work.name,
            "options": {name: repr(value) for name, value in work.options.items()},
            "made_by": asdict(made_by) | {"model": asdict(made_by.model) | {"uri": ""}},
            "samples": dataset_digest((sample.id, sample_hash(sample.messages)) for sample in samples),
        }
    )


def _may_change(error: Mapping[str, Any] | None) -> bool:
    """Whether a line with this error may become another when it is asked for again."""
    return error is not None and bool(error["retryable"] or error["reason"] in _OF_LENGTH)


def _line(sample_id: str, status: ItemStatus, record: Mapping[str, Any]) -> dict[str, Any]:
    if not status.ok:
        error = {"reason": status.reason, "message": status.message, "retryable": status.retryable}
        record = {key: record[key] for key in ("attempts",) if key in record} | {"error": error}
    return {"id": sample_id, **record}


def _end(failed: Sequence[tuple[str, Mapping[str, Any]]], total: int, more: str = "") -> None:
    """Says how many samples failed, and ends with code 1; nothing where none did."""
    if failed:
        first, error = failed[0]
        complain(f"{len(failed)} of {total} samples failed; the first: {first}: {error['message']}{more}")
        raise typer.Exit(1)
