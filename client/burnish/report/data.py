"""What a report says, as plain data. `collect.py` fills it from the ledger, `render.py` turns it into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

AXES = ("hard", "sparse", "low_quality")
SIGNALS = ("loss_pre", "loss_post", "mean_cosine", "quality")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line drawn on a signal: tau = mean +/- m * std over `num_values` rows; None where nothing could be drawn."""

    signal: str
    axis: str
    mean: float | None
    std: float | None
    m: float | None
    tau: float | None
    num_values: int
    num_excluded: int


@dataclass(frozen=True, slots=True)
class Change:
    """One row that a round changed or wanted to change."""

    row_id: str
    axes: tuple[str, ...]
    action: str  # simplify | improve | diversify
    reasons: tuple[str, ...]
    before_prompt: str
    before_response: str
    after_prompt: str | None  # None: rejected, the original stays
    after_response: str | None
    rejection: str  # why, for people; empty where accepted


@dataclass(frozen=True, slots=True)
class Failure:
    """Things that went wrong for the same reason in the same step."""

    step: str
    reason: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class StepTiming:
    """What a step cost; `seconds` is work time, interruptions left out."""

    name: str
    state: str
    total: int
    reused: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Items per second actually worked on; None where nothing was."""
        worked = self.total - self.reused
        return worked / self.seconds if worked > 0 and self.seconds > 0 else None


@dataclass(frozen=True, slots=True)
class FlawRate:
    """Of the rows with one planted flaw, how many each axis selected; `by_axis` has every axis and `any`."""

    flaw: str
    planted: int
    by_axis: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FlawTable:
    """How well one round's axes found what was planted, with the clean rows as the base rate."""

    round: int
    rates: Sequence[FlawRate]
    clean: FlawRate  # rows without a planted flaw
    expected: str  # what the table is read against, one sentence


@dataclass(frozen=True, slots=True)
class Round:
    """One round: the data it began with, what was measured, what was decided."""

    number: int
    num_rows: int
    selected: Mapping[str, int]  # rows per axis
    rewritten: int
    added: int
    rejected: int
    thresholds: Sequence[Threshold]
    signals: Mapping[str, Sequence[float]]  # finite values per signal, in row order
    changes: Sequence[Change]
    failures: Sequence[Failure]
    timings: Sequence[StepTiming]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the run used; losses in nats per response token."""

    label: str
    uri: str
    digest: str
    train_loss: float | None
    eval_loss: float | None


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything in a report."""

    run_id: str
    recipe: str
    version: str
    created_at: str
    finished: bool
    rows_in: int
    rows_out: int | None
    rounds: Sequence[Round]
    last_timings: Sequence[StepTiming]  # of the training after the last round
    models: Sequence[Model]
    flaws: Sequence[FlawTable]
    config: Mapping[str, object]
    notes: Sequence[str] = field(default=())
