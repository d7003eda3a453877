"""A run as its worker sees it: what `sft.train` and `fake_worker.train` are given. Imports no torch."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.tokenizer import ChatTokenizer
from burnish_services.training.data import TrainingData, read_data
from burnish_services.training.messages import Reporter
from burnish_services.training.runs import RunDirectory, RunRecord
from burnish_services.training.state import RunError
from burnish_services.training.world import ALONE, World

log = logging.getLogger(__name__)


class StoppedEarly(Exception):
    """The trainer was asked to stop and did so; what it had is in its last checkpoint."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run, and how the server wants it worked."""

    directory: RunDirectory
    record: RunRecord
    report: Reporter
    stop: threading.Event  # once set: write a checkpoint after the step at hand and raise StoppedEarly
    threads: int
    checkpoint_seconds: float
    fake_step_seconds: float
    world: World = ALONE

    def check_base(self) -> None:
        """Raises RunError where the base model is not what it was when the run was created; a run that goes on from
        a checkpoint must not mix two."""
        resolved = self.record.resolved
        found = model_digest(resolved.base)
        if found != resolved.base_digest:
            raise RunError(
                "FAILED_PRECONDITION",
                "MODEL_DIGEST_MISMATCH",
                f"the base model at {resolved.base} has digest {found}; it had {resolved.base_digest} when the run was "
                "created",
            )

    def read_training_data(self, tokenizer: ChatTokenizer, max_tokens: int) -> TrainingData:
        """The run's samples. Raises RunError, also where the file is not what it was when the run was created."""
        resolved = self.record.resolved
        return _read("data_uri", resolved.data, resolved.data_digest, tokenizer, max_tokens)

    def read_validation_data(self, tokenizer: ChatTokenizer, max_tokens: int) -> TrainingData:
        """The samples that weights are learnt from, of a run that selects. Raises RunError, as above."""
        chosen = self.record.resolved.selection
        assert chosen is not None
        field = "bilevel.validation_data_uri"
        return _read(field, chosen.validation, chosen.validation_digest, tokenizer, max_tokens)

    def read_eval_data(self, tokenizer: ChatTokenizer, max_tokens: int) -> TrainingData | None:
        """The samples that progress is measured on, if the run has any. Raises RunError."""
        resolved = self.record.resolved
        if resolved.eval_data is None:
            return None
        return _read("eval_data_uri", resolved.eval_data, resolved.eval_digest, tokenizer, max_tokens)


def _read(field: str, path: Path, digest: str, tokenizer: ChatTokenizer, max_tokens: int) -> TrainingData:
    """The samples of a file that must have `digest`, where there is one. Raises RunError that names the field."""
    try:
        data = read_data(path, tokenizer, max_tokens)
    except RunError as error:
        raise RunError(error.failure.code, error.failure.reason, f"{field}: {error}") from error
    except FileNotFoundError as error:
        raise RunError("NOT_FOUND", "DATA_NOT_FOUND", f"{field}: {path} is gone") from error
    if digest and data.digest != digest:
        raise RunError(
            "FAILED_PRECONDITION",
            "DATA_DIGEST_MISMATCH",
            f"{field}: {path} has digest {data.digest}; it had {digest} when the run was created",
        )
    for skipped in data.skipped:
        log.warning("%s: left out %s: %s", field, skipped.name, skipped.reason)
        log.debug("%s: %s: %s", field, skipped.name, skipped.message)  # may quote the sample
    log.info("%s: %d samples, %d left out, %d tokens", field, len(data.samples), len(data.skipped), sum(data.lengths))
    return data
