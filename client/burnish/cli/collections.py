"""collections: what the embedding service keeps, and the removal of what is old."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from burnish._client import Client
from burnish._coverage_types import Calibration
from burnish._errors import UsageError
from burnish._types import Collection, ModelVersion
from burnish.cli.output import command, say, say_json
from burnish.cli.per_sample import State
from burnish.cli.services import ServiceChoice, with_services

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_BYTES = 4  # of a number of a vector, float32


@command
@with_services
def collections(
    services: ServiceChoice,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Start the service here with this model, where no address is given; --state-dir says on which store.",
            metavar="DIR|URI",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than", help="Only what was created longer ago: a number of h, d or w, such as 30d.", metavar="AGE"
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what --older-than lists, without asking; says what.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Lists the collections of vectors that the embedding service keeps, and deletes old ones.

    Every round of a Middo-style run makes a collection, and none goes by itself. What is deleted, a run that wants it
    embeds anew. Calibrations, which features are computed against, are listed and deleted too, except those that a
    collection that stays was made with. Let no run be at work on what is deleted: its step fails, and is done anew when
    the run is resumed.
    """
    if delete and older_than is None:
        raise UsageError(
            "--delete needs --older-than, which says what goes: --older-than 30d what was created more than 30 days "
            "ago, --older-than 0h everything."
        )
    before = None if older_than is None else datetime.now(UTC) - age_of(older_than)
    if model is None:
        services.endpoints.address("embedding")  # raises with advice where there is none
    with services.client(["embedding"], model or "", State) as client:
        calibrations, kept = client.embedding.list_calibrations(), client.embedding.list_collections()
        old = [one for one in kept if _is_old(one, before)]
        if delete:
            _delete_collections(client, old, aloud=not json_output)
            kept = client.embedding.list_collections()  # those made meanwhile, too
        idle = _unneeded(calibrations, [one for one in kept if delete or not _is_old(one, before)], before)
        if delete:
            _delete_calibrations(client, idle, aloud=not json_output)
    if json_output:
        say_json(
            {
                "deleted": delete,
                "collections": [_record(one) for one in old],
                "calibrations": [asdict(one) for one in idle],
            }
        )
        return
    if not delete:
        for line in (*map(collection_line, old), *map(calibration_line, idle)):
            say(line)
    said = f"{_many(len(old), 'collection')} with {_mib(old)} of vectors, {_many(len(idle), 'calibration')}"
    say(f"{'Deleted ' if delete else ''}{said}{'' if older_than is None else f', older than {older_than}'}.")


def age_of(text: str) -> timedelta:
    """A number of hours, days or weeks, such as 12h, 30d or 4w. Raises UsageError."""
    found = re.fullmatch(r"([0-9]{1,5})([hdw])", text)
    if found is None:
        raise UsageError(f"--older-than is {text!r}; expected a number of hours, days or weeks: 12h, 30d or 4w.")
    return int(found[1]) * _UNITS[found[2]]


def collection_line(one: Collection) -> str:
    """What a collection is, in a line for people."""
    features = ""
    if one.features is not None:
        rule = one.features.rule.value if one.features.rule else "of neurons"
        features = f", features {rule}" + (f" by {one.features.calibration}" if one.features.calibration else "")
    return (
        f"{one.name}: {one.num_vectors:,} × {one.dimension:,} ({_mib([one])}), {one.source.value}{features}, "
        f"{_weights(one.model)}, created {_time(one.create_time)}"
    )


def calibration_line(one: Calibration) -> str:
    """What a calibration is, in a line for people."""
    state = f"version {one.version}" if one.version else "not finished"
    return (
        f"{one.name}: calibration on {_many(one.num_samples, 'sample')}, {state}, {_weights(one.model)}, "
        f"created {_time(one.create_time)}"
    )


def _is_old(one: Collection | Calibration, before: datetime | None) -> bool:
    """Whether it was created before; everything was where no time is given, and what has no time never."""
    return before is None or (one.create_time is not None and one.create_time < before)


def _unneeded(
    calibrations: Iterable[Calibration], staying: Iterable[Collection], before: datetime | None
) -> list[Calibration]:
    """The old calibrations that no collection that stays is of: without, it could take in nothing more."""
    needed = {one.features.calibration for one in staying if one.features is not None}
    return [one for one in calibrations if _is_old(one, before) and one.name not in needed]


def _delete_collections(client: Client, old: Sequence[Collection], *, aloud: bool) -> None:
    for one in old:
        client.embedding.delete_collection(one.name)
        if aloud:
            say(f"Deleted {collection_line(one)}")


def _delete_calibrations(client: Client, idle: Sequence[Calibration], *, aloud: bool) -> None:
    for one in idle:
        client.embedding.delete_calibration(one.name)
        if aloud:
            say(f"Deleted {calibration_line(one)}")


def _record(one: Collection) -> dict[str, object]:
    return asdict(one) | {"vector_bytes": _vector_bytes(one)}


def _vector_bytes(one: Collection) -> int:
    return one.num_vectors * one.dimension * _BYTES


def _mib(some: Iterable[Collection]) -> str:
    return f"{sum(map(_vector_bytes, some)) / 2**20:,.1f} MiB"


def _weights(model: ModelVersion | None) -> str:
    return "no weights yet" if model is None else f"{model.uri} ({model.digest[:19]}, {model.dtype}, {model.engine})"


def _time(when: datetime | None) -> str:
    return "at an unknown time" if when is None else f"{when.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
