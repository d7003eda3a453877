"""Where things stand in a run directory."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

LEDGER = "ledger.duckdb"
_HUB_NAME = re.compile(r"\w[\w-]*/\w[\w.-]*")


def is_remote(uri: str) -> bool:
    """Whether a model is named by its place in a store of the services', at which nobody looks from here."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.lower() != "file"


def is_hub_name(text: str) -> bool:
    """Whether `owner/name` is meant as something on a hub rather than as a file in a folder that is here."""
    return _HUB_NAME.fullmatch(text) is not None and not Path(text).parent.exists()


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run; all inside `out`, which is made absolute, but for the ledger where runs share one."""

    out: Path
    shared_ledger: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", self.out.absolute())
        if self.shared_ledger is not None:
            object.__setattr__(self, "shared_ledger", self.shared_ledger.absolute())

    @classmethod
    def find(cls, out: Path) -> RunPaths:
        """The files of the run that is in `out`, whichever ledger it is in."""
        paths = cls(out)
        shared = paths.written.get("ledger")
        return paths if shared is None else cls(out, (paths.out / str(shared)).resolve())

    @property
    def written(self) -> dict[str, object]:
        """What `config.json` says; nothing where it is not there or cannot be read."""
        try:
            found = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def to_write(self) -> dict[str, str]:
        """What `config.json` must say for `find` to find the ledger."""
        return {} if self.shared_ledger is None else {"ledger": os.path.relpath(self.shared_ledger, self.out)}

    @property
    def ledger(self) -> Path:
        """The DuckDB ledger: the truth about the run."""
        return self.shared_ledger or self.out / LEDGER

    @property
    def config(self) -> Path:
        """The resolved settings, as they were when the run began."""
        return self.out / "config.json"

    @property
    def status(self) -> Path:
        """How far the run is, rewritten as it goes on; for `burnish status`, because the ledger is locked meanwhile."""
        return self.out / "status.json"

    @property
    def source(self) -> Path:
        """Copies of the data that were named by their place in object storage."""
        return self.out / "source"

    def data(self, round_number: int) -> Path:
        """What a round trains on: JSONL with `id` and `messages`."""
        return self.out / "data" / f"round-{round_number}.jsonl"

    @property
    def holdout(self) -> Path:
        """The held-out data in the same form."""
        return self.out / "data" / "holdout.jsonl"

    @property
    def validation(self) -> Path:
        """The validation set of a bilevel selection in the same form."""
        return self.out / "data" / "validation.jsonl"

    @property
    def trusted(self) -> Path:
        """The rows that can be trusted, which what a filter makes is never trained on, in the same form."""
        return self.out / "data" / "trusted.jsonl"

    def answers(self, step: int) -> Path:
        """The model's own answers that a training goes on with after its pause at a step."""
        return self.out / "data" / f"answers-{step}.jsonl"

    def model(self, round_number: int) -> Path:
        """Where the training service publishes a round's model."""
        return self.out / "models" / f"round-{round_number}"

    @property
    def final(self) -> Path:
        """The final data set in the input's format, and its provenance."""
        return self.out / "final"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.out / "report.html"

    @property
    def services(self) -> Path:
        """Logs and state of services started on this machine for the run; a sweep's runs share them as its ledger."""
        return self.ledger.parent / "services"
