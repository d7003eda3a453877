"""Step `split`: samples that can be trusted, from files of their own or held out of the data, and the rows that are
left to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from burnish._types import Message, Role
from burnish.coordinator.atomic import write_lines
from burnish.coordinator.content import message_list, sample_hash
from burnish.coordinator.errors import DataError, StepFailed
from burnish.coordinator.formats import DataReader, find_files
from burnish.coordinator.formats.files import digest_files
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Split, split_by, split_off, split_size
from burnish.coordinator.steps.measure import prompts_of
from burnish.coordinator.steps.read import holdout_hashes
from burnish.coordinator.steps.runs import BdsRun, FilterRun
from burnish.coordinator.steps.stage import AnyRun

Lines = Sequence[tuple[str, Sequence[Message]]]  # id and conversation
_VALIDATION, _TRUSTED = "the validation set", "the trusted rows"


@dataclass(frozen=True, slots=True)
class Validation:
    """The validation set: its samples as rows, and the digest of the file that the training service reads."""

    rows: Sequence[DataRow]
    digest: str


def check_validation(run: BdsRun) -> None:
    """Raises DataError where validation files cannot be read, or share samples with the held-out data. Before the data
    are read: until then a run may be begun anew with other files."""
    _check_files(run, run.settings.validation, "validation", _VALIDATION)


def check_trusted(run: FilterRun) -> None:
    """The same of trusted rows."""
    _check_files(run, run.settings.trusted, "trusted", _TRUSTED)


def _check_files(run: AnyRun, files: Sequence[str], setting: str, what: str) -> None:
    if files and run.book.dataset(1) is None:
        held_out = _lines_of(run, run.settings.holdout, "")[0] if run.settings.holdout else []
        _expect_apart(_lines_of(run, files, setting)[0], {sample_hash(messages) for _, messages in held_out}, what)


def split_validation(run: BdsRun, round_number: int, rows: Sequence[DataRow]) -> tuple[Split, Validation]:
    """Which rows are trained on, and the validation set, written down once. Raises DataError where the validation set
    shares samples with the held-out data, or nothing is left to train on."""
    prompts = prompts_of(run, [row.sample_hash for row in rows])
    path = run.paths.validation
    digest = _written_once(run, round_number, rows, path, lambda: _validation_lines(run, rows, prompts))
    validation = Validation(_read(path, digest), digest)
    return _apart(run, rows, prompts, validation.rows, _VALIDATION, "validation set"), validation


def split_trusted(run: FilterRun, round_number: int, rows: Sequence[DataRow]) -> tuple[Split, Sequence[DataRow]]:
    """Which rows are trained on, and the trusted ones, written down once; all, and none, where none are given. Raises
    DataError as `split_validation` does."""
    files = run.settings.trusted
    if not files:
        return Split(rows, []), []
    path = run.paths.trusted
    digest = _written_once(run, round_number, rows, path, lambda: _trusted_lines(run, files, "trusted", _TRUSTED))
    trusted = _read(path, digest)
    prompts = prompts_of(run, [row.sample_hash for row in rows])
    return _apart(run, rows, prompts, trusted, _TRUSTED, "set of trusted rows"), trusted


def _written_once(
    run: AnyRun, round_number: int, rows: Sequence[DataRow], path: Path, lines: Callable[[], Lines]
) -> str:
    """Writes the `lines` that can be trusted the first time that a round's `rows` are split; returns the digest of the
    file as it was written then."""
    stage = run.stage(round_number, "split")
    if stage.done:
        return str(stage.detail["digest"])
    with stage.working():
        stage.expect(len(rows))
        digest = _write(path, lines())
        with run.book.transaction():
            stage.note({"digest": digest})
            stage.advance(len(rows))
    return digest


def _validation_lines(run: BdsRun, rows: Sequence[DataRow], prompts: Mapping[str, str]) -> Lines:
    settings = run.settings
    if settings.validation_split is not None:
        size = split_size(settings.validation_split, len(rows))
        drawn = split_off(rows, prompts, set(holdout_hashes(run)), size, settings.seed).validation
        names = {row.row_id: row.sample_hash for row in drawn}
        known = run.book.samples(names.values())
        if not names:
            raise DataError(
                "No row can be set apart for validation: every prompt of the data is in the held-out data as well."
                " Expected rows with other prompts; hold out other rows, or give the validation set as a file."
            )
        return [(row_id, known[name]) for row_id, name in names.items()]
    lines = _trusted_lines(run, settings.validation, "validation", _VALIDATION)
    if not lines:
        raise DataError("The validation set is empty: weights are learnt from it, so at least one sample is needed.")
    return lines


def _trusted_lines(run: AnyRun, files: Sequence[str], setting: str, what: str) -> Lines:
    """The samples of files that can be trusted, which are in the ledger then. Raises DataError where the files are not
    those that the run was begun with, or the held-out data have some of the samples."""
    _expect_same(run, files, setting, what)
    lines, warnings = _lines_of(run, files, setting)
    for warning in warnings:
        run.observer.noted(f"{what}: {warning}")
    _expect_apart(lines, set(holdout_hashes(run)), what)
    with run.book.transaction():
        run.book.add_samples({sample_hash(messages): messages for _, messages in lines})
    return lines


def _lines_of(run: AnyRun, files: Sequence[str], prefix: str) -> tuple[Lines, Sequence[str]]:
    """The samples of files, whose ids begin with `prefix`, and what was noticed. Raises DataError."""
    reader = DataReader(files, run.settings.columns, run.settings.skip_bad_rows)
    lines = [(f"{prefix}-{row.position + 1}", tuple(row.messages)) for row in reader.rows()]
    return lines, reader.warnings


def _expect_same(run: AnyRun, files: Sequence[str], setting: str, what: str) -> None:
    """Raises DataError where files have changed since the run was begun, whose id is made from them."""
    begun_with = run.book.history().run.config["identity"][setting]
    if digest_files(find_files(files)) != begun_with:
        raise DataError(
            f"The files of {what} ({', '.join(files)}) have changed since this run was begun with them. Put them back"
            f" as they were, or begin a run with the new ones in another folder (--{setting}, --out)."
        )


def _expect_apart(lines: Lines, held_out: Set[str], what: str) -> None:
    """Raises DataError where the held-out data, whose hashes are given, have some of these samples."""
    shared = [(name, key) for name, messages in lines if (key := sample_hash(messages)) in held_out]
    if shared:
        raise DataError(
            f"{len({key for _, key in shared})} samples are in {what} and in the held-out data, the first:"
            f" {shared[0][0]}. What is learnt from cannot be judged by; remove them from one of the two."
        )


def _write(path: Path, lines: Lines) -> str:
    """Writes samples as the training service reads them; returns the digest of the file's bytes."""
    return write_lines(path, ({"id": name, "messages": message_list(messages)} for name, messages in lines))


def _read(path: Path, digest: str) -> list[DataRow]:
    """The samples as they were written, as rows. Raises StepFailed where the file is another."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != digest:
        raise StepFailed(
            f"{path} is gone or changed; it was written when the run began. Put it back, or begin a new run."
        )
    rows = []
    # Not str.splitlines, which breaks at characters that may stand in a text.
    for line in content.splitlines():
        value = json.loads(line)
        messages = [Message(Role(turn["role"]), turn["content"]) for turn in value["messages"]]
        rows.append(DataRow(value["id"], sample_hash(messages), "source", None, value["id"]))
    return rows


def _apart(
    run: AnyRun,
    rows: Sequence[DataRow],
    prompts: Mapping[str, str],
    trusted: Sequence[DataRow],
    where: str,
    what: str,
) -> Split:
    """The rows whose prompts none of `trusted` has, and the others. Raises DataError where none is left."""
    taken = set(prompts_of(run, [row.sample_hash for row in trusted]).values())
    split = split_by(rows, prompts, taken)
    if not split.training:
        raise DataError(
            f"Not one row is left to train on: every prompt of the data is in {where}. Give a smaller {what}, or one"
            " with prompts of its own."
        )
    return split
