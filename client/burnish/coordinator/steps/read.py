"""Step `read`: the data set into the ledger, a portion at a time; and the held-out data beside the run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import TypeVar

from burnish.coordinator.atomic import writing_whole
from burnish.coordinator.content import as_json, message_list, sample_hash
from burnish.coordinator.errors import StepFailed
from burnish.coordinator.formats import DataReader
from burnish.coordinator.formats.arrow import encode_schema
from burnish.coordinator.formats.files import arrow_schema
from burnish.coordinator.heldout import hashes_in
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.steps.stage import AnyRun, Stage

ItemT = TypeVar("ItemT")
_CHUNK = 1000
_SKIPPED_KEPT = 1000  # problems of rows that were left out, kept word by word


async def read(run: AnyRun) -> None:
    """Reads data and held-out data, once. Raises DataError."""
    stage = run.stage(0, "read")
    if stage.done:
        return
    with stage.working():
        if run.book.dataset(1) is not None:  # killed between the rows and the note that the step is done
            return
        run.book.forget_source_rows()  # of a try that was ended
        source, rows = await _read_data(run, stage)
        if run.settings.holdout:
            source["holdout"] = await _read_holdout(run, {row.sample_hash for row in rows})
        with run.book.transaction():
            run.book.add_dataset(1, rows)
            run.book.set_source(source)


def holdout_hashes(run: AnyRun) -> list[str]:
    """The held-out samples, distinct, in order; empty where there are none."""
    if not run.settings.holdout:
        return []
    try:
        return hashes_in(run.paths.holdout)
    except FileNotFoundError:
        raise StepFailed(
            f"{run.paths.holdout} is gone; it was written when the run began. Put it back, or begin a new run."
        ) from None


async def _read_data(run: AnyRun, stage: Stage) -> tuple[dict[str, object], list[DataRow]]:
    settings, book = run.settings, run.book
    reader = DataReader(settings.data, settings.columns, settings.skip_bad_rows)
    hashes: list[str] = []
    for rows in _chunks(reader.rows(), _CHUNK):
        names = [sample_hash(row.messages) for row in rows]
        with book.transaction():  # all of them in one would be all in memory
            book.add_samples({name: row.messages for name, row in zip(names, rows, strict=True)})
            book.add_source_rows(rows[0].position, [as_json(row.record) for row in rows])
        hashes += names
        stage.advance(len(rows), total=len(hashes))
        stage.show()
        await asyncio.sleep(0)  # lets a signal be noticed
        run.stop_here()
    dataset = [DataRow(name, key, "source", None, name) for name, key in zip(reader.ids(), hashes, strict=True)]
    for warning in reader.warnings:
        run.observer.noted(warning)
    schema = arrow_schema(reader.files)
    source: dict[str, object] = {
        **asdict(reader.info),
        "files": [str(file.path) for file in reader.files],
        "num_rows": len(hashes),
        "num_distinct": len(set(hashes)),
        "num_skipped": len(reader.skipped),
        "skipped": reader.skipped[:_SKIPPED_KEPT],
        "warnings": reader.warnings,
        "arrow_schema": None if schema is None else encode_schema(schema),
    }
    return source, dataset


async def _read_holdout(run: AnyRun, trained_on: set[str]) -> dict[str, object]:
    settings = run.settings
    reader = DataReader(settings.holdout, settings.columns, settings.skip_bad_rows)
    count, shared = 0, 0
    with writing_whole(run.paths.holdout) as stream:
        for rows in _chunks(reader.rows(), _CHUNK):
            samples = {sample_hash(row.messages): row.messages for row in rows}
            with run.book.transaction():
                run.book.add_samples(samples)
            shared += len(trained_on & samples.keys())
            for row in rows:
                line = {"id": f"holdout-{row.position + 1}", "messages": message_list(row.messages)}
                stream.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")
            count += len(rows)
            await asyncio.sleep(0)
            run.stop_here()
    for warning in reader.warnings:
        run.observer.noted(f"held-out data: {warning}")
    if shared:
        run.observer.noted(f"{shared} held-out samples are in the training data as well; held-out loss flatters.")
    return {"num_rows": count, "num_shared": shared, "num_skipped": len(reader.skipped)}


def _chunks(items: Iterable[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
