"""Step `split`: the validation set of a bilevel selection, and the rows that are left to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from burnish._types import Message, Role
from burnish.coordinator.atomic import writing_whole
from burnish.coordinator.content import digest_of, message_list, sample_hash
from burnish.coordinator.errors import DataError, StepFailed
from burnish.coordinator.formats import DataReader
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Split, split_by, split_off, split_size
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.steps.measure import ROWS_PER_READ
from burnish.coordinator.steps.read import holdout_hashes
from burnish.coordinator.steps.stage import AnyRun, RunContext

BdsRun = RunContext[BdsSettings]


@dataclass(frozen=True, slots=True)
class Validation:
    """The validation set: its samples as rows, and the digest of the file that the training service reads."""

    rows: Sequence[DataRow]
    digest: str


async def split_validation(run: BdsRun, round_number: int, rows: Sequence[DataRow]) -> tuple[Split, Validation]:
    """Which rows are trained on, and the validation set, written down once. Raises DataError where the validation set
    shares samples with the held-out data, or nothing is left to train on."""
    stage = run.stage(round_number, "split")
    prompts = _prompts(run, (row.sample_hash for row in rows))
    if not stage.done:
        with stage.working():
            stage.expect(len(rows))
            digest = _write_validation(run, rows, prompts)
            with run.book.transaction():
                stage.note({"digest": digest})
                stage.advance(len(rows))
    else:
        digest = str(stage.detail["digest"])
    validation, taken = _read_validation(run, digest)
    split = split_by(rows, prompts, taken)
    if not split.training:
        raise DataError(
            "Not one row is left to train on: every prompt of the data is in the validation set. Give a smaller"
            " validation set, or one with prompts of its own."
        )
    return split, validation


def _prompts(run: AnyRun, hashes: Iterable[str]) -> dict[str, str]:
    """By sample, a name for everything before its last response."""
    distinct = list(dict.fromkeys(hashes))
    found: dict[str, str] = {}
    for start in range(0, len(distinct), ROWS_PER_READ):
        samples = run.book.samples(distinct[start : start + ROWS_PER_READ])
        found |= {name: _prompt(messages) for name, messages in samples.items()}
    return found


def _prompt(messages: Sequence[Message]) -> str:
    return digest_of(message_list(messages[:-1]))


def _write_validation(run: BdsRun, rows: Sequence[DataRow], prompts: Mapping[str, str]) -> str:
    """Writes the validation set as the training service reads it; returns the digest of the file's bytes."""
    settings = run.settings
    held_out = set(holdout_hashes(run))
    samples: dict[str, Sequence[Message]] = {}
    if settings.validation_split is not None:
        size = split_size(settings.validation_split, len(rows))
        drawn = split_off(rows, prompts, held_out, size, settings.seed).validation
        names = {row.row_id: row.sample_hash for row in drawn}
        known = run.book.samples(names.values())
        lines = [(row_id, known[name]) for row_id, name in names.items()]
    else:
        reader = DataReader(settings.validation, settings.columns, settings.skip_bad_rows)
        lines = [(f"validation-{row.position + 1}", tuple(row.messages)) for row in reader.rows()]
        samples = {sample_hash(messages): messages for _, messages in lines}
        shared = held_out & samples.keys()
        if shared:
            first = next(name for name, messages in lines if sample_hash(messages) in shared)
            raise DataError(
                f"{len(shared)} samples are in the validation set and in the held-out data, the first: {first}. What is"
                " learnt from cannot be judged by; remove them from one of the two."
            )
        with run.book.transaction():
            run.book.add_samples(samples)
    if not lines:
        raise DataError("The validation set is empty: weights are learnt from it, so at least one sample is needed.")
    whole = hashlib.sha256()
    with writing_whole(run.paths.validation) as stream:
        for name, messages in lines:
            line = json.dumps({"id": name, "messages": message_list(messages)}, ensure_ascii=False)
            whole.update(line.encode() + b"\n")
            stream.write(line.encode() + b"\n")
    return f"sha256:{whole.hexdigest()}"


def _read_validation(run: AnyRun, digest: str) -> tuple[Validation, set[str]]:
    """The validation set as it was written, and its prompts."""
    try:
        content = run.paths.validation.read_bytes()
    except FileNotFoundError:
        content = b""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise StepFailed(
            f"{run.paths.validation} is gone or changed; it was written when the run began. Put it back, or begin a new"
            " run."
        )
    rows, taken = [], set()
    for line in content.decode().splitlines():
        value = json.loads(line)
        messages = [Message(Role(turn["role"]), turn["content"]) for turn in value["messages"]]
        rows.append(DataRow(value["id"], sample_hash(messages), "source", None, value["id"]))
        taken.add(_prompt(messages))
    return Validation(rows, digest), taken
