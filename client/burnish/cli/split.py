"""split: one data set in parts, to judge models by, to look through, and to polish."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from burnish._errors import UsageError
from burnish.cli.data import Reading, with_reading
from burnish.cli.output import command, say, say_json, tell
from burnish.coordinator.atomic import write_lines
from burnish.coordinator.content import sample_hash
from burnish.coordinator.errors import InputError
from burnish.coordinator.formats import load
from burnish.coordinator.policy.amount import PART
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import split_off

HELD_OUT, TO_CHECK, REST = "held-out.jsonl", "to-check.jsonl", "rest.jsonl"


@command
@with_reading
def split(
    reading: Reading,
    out: Annotated[Path, typer.Option("--out", help="Folder that the files are written to.", metavar="DIR")],
    holdout: Annotated[
        str, typer.Option("--holdout", help="Rows to judge models by: a number, or a share such as 5%.", metavar="N")
    ] = "300",
    check: Annotated[
        str, typer.Option("--check", help="Rows to look through: a number, or a share; 0 for none.", metavar="N")
    ] = "150",
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.", min=0)] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Draws rows out of one data set: to judge models by, to look through, and the rest, to polish.

    Writes DIR/held-out.jsonl (for --holdout), DIR/to-check.jsonl and DIR/rest.jsonl (for --data), rows and columns as
    they came. Read what is to be checked and delete the rows that are wrong: what stays is what --trusted and
    --validation want. Rows with the same prompt are all in one of the files.
    """
    loaded = load(list(reading.data), columns=reading.columns, skip_bad_rows=reading.skip_bad_rows)
    for warning in loaded.warnings:
        tell(f"note: {warning}")
    total = len(loaded.samples)
    sizes = {HELD_OUT: _rows("--holdout", holdout, total), TO_CHECK: _rows("--check", check, total)}
    if sum(sizes.values()) >= total:
        raise InputError(
            f"{sizes[HELD_OUT]} rows to judge by and {sizes[TO_CHECK]} to check are all of the {total} rows; expected"
            " fewer, so that some are left to polish (--holdout, --check)."
        )
    records = {sample.id: record for sample, record in zip(loaded.samples, loaded.records, strict=True)}
    rest: Sequence[DataRow] = [
        DataRow(sample.id, sample_hash(sample.messages), "source", None, sample.id) for sample in loaded.samples
    ]
    prompts = {
        row.sample_hash: sample_hash(sample.messages[:-1]) for row, sample in zip(rest, loaded.samples, strict=True)
    }
    parts: dict[str, Sequence[DataRow]] = {}
    for name, size in sizes.items():
        if size:
            drawn = split_off(rest, prompts, set(), size, seed)
            parts[name], rest = drawn.validation, drawn.training
            if len(parts[name]) > size:
                together = "rows with the same prompt stay together"
                tell(f"note: {len(parts[name])} rows for {name} instead of {size}: {together}")
    if not rest:
        raise InputError(
            f"Nothing is left to polish: of {total} rows so many have the same prompt, and these stay together."
        )
    parts[REST] = rest
    taken = [out / name for name in parts if (out / name).exists()]
    if taken:
        raise InputError(f"{taken[0]} is there already, and may have been worked on; remove it, or give another --out.")
    for name, rows in parts.items():
        write_lines(out / name, (records[row.row_id] for row in rows))
    told = {str(out / name): len(rows) for name, rows in parts.items()}
    if json_output:
        say_json(told)
        return
    for path, count in told.items():
        say(f"{path}: {count} rows")


def _rows(flag: str, text: str, total: int) -> int:
    """Rows that an option asks for, of `total`. Raises UsageError."""
    try:
        return 0 if text.strip() == "0" else PART.of(PART.parse(text), total)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}.") from None
