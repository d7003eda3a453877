"""Where things stand in a run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one run; all inside `out`, which is made absolute."""

    out: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", self.out.absolute())

    @property
    def ledger(self) -> Path:
        """The DuckDB ledger: the truth about the run."""
        return self.out / "ledger.duckdb"

    @property
    def config(self) -> Path:
        """The resolved settings, as they were when the run began."""
        return self.out / "config.json"

    @property
    def status(self) -> Path:
        """How far the run is, rewritten as it goes on; for `burnish status`, because the ledger is locked meanwhile."""
        return self.out / "status.json"

    def data(self, round_number: int) -> Path:
        """What a round trains on: JSONL with `id` and `messages`."""
        return self.out / "data" / f"round-{round_number}.jsonl"

    @property
    def holdout(self) -> Path:
        """The held-out data in the same form."""
        return self.out / "data" / "holdout.jsonl"

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
        """Logs and state of services started on this machine for the run."""
        return self.out / "services"
