"""A cell of the grid: one task, one share of noise, one seed; and what the process that works it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.efficacy.task import Files
from burnish.coordinator.content import digest_of


@dataclass(frozen=True)
class Cell:
    """One cell. `arms`: names in `arms.ARMS`. `keep`: share of the rows that recipes keep. `training`: hyperparameters
    of all models alike. `settings`: more of a recipe's, by arm. `max_tokens`: of a right row. `until`: seconds since
    the epoch after which no arm is begun; infinite for never."""

    task: str
    noise: float
    seed: int
    folder: str
    arms: tuple[str, ...]
    keep: float
    random_subsets: int
    score_rows: int
    max_tokens: int
    model: str
    engine: str
    dtype: str
    training: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    until: float
    keep_models: bool
    base: str = ""  # `model` by name, and by digest too where it was trained first
    batch_tokens: int | None = None  # of the transformers engine; None: its default
    known_rows: tuple[int, ...] = ()  # controls of as many rows are known already
    setting: str = ""  # a digest of what seeds must have in common to be taken together

    def __str__(self) -> str:
        return f"{self.task}, noise {self.noise:g}, seed {self.seed}"

    @property
    def files(self) -> Files:
        """The cell's data, which are there."""
        return Files(Path(self.folder) / "data")

    def made_of(self) -> str:
        """A digest of what cells must have in common for their arms to be compared, wherever they were measured: the
        data, the base model, and how models are trained and judged."""
        data = [self.files.training, self.files.validation, self.files.held_out]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in data]
        made_of = [digests, self.base, self.dtype, dict(self.training), self.keep, self.score_rows]
        return digest_of(made_of)[:16]

    @property
    def ledger(self) -> Path:
        """The one that all arms share, so that scores and models are paid for once."""
        return Path(self.folder) / "ledger.duckdb"

    @property
    def runs(self) -> Path:
        """A folder of runs, each named by what it is made of."""
        return Path(self.folder) / "runs"

    @property
    def answers(self) -> Path:
        """What models answered to held-out rows."""
        return Path(self.folder) / "answers"

    @property
    def services(self) -> Path:
        """Logs and state of the cell's services."""
        return Path(self.folder) / "services"

    def text(self) -> str:
        """As JSON; `parse` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Cell:
        """What `text` made."""
        values = json.loads(text)
        return cls(**{**values, "arms": tuple(values["arms"]), "known_rows": tuple(values["known_rows"])})
