"""What the ledger holds, as plain frozen dataclasses. The tables themselves are described in `schema/*.sql`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from burnish._types import Attempt, Message
from burnish.coordinator.policy.acceptance import Acceptance
from burnish.coordinator.policy.clear import Preference


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. `config` is the resolved configuration, `source` how the data came (None until it was read)."""

    run_id: str
    recipe: str
    config: Mapping[str, Any]
    burnish_version: str
    source: Mapping[str, object] | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """The data set at the start of a round; `rounds + 1` is the final one."""

    round: int
    digest: str
    num_rows: int


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step; `seconds` is work time, interruptions left out. `state`: running, done or failed. `detail`: what its
    findings are keyed by."""

    round: int
    position: int
    name: str
    state: str
    done: int
    total: int
    reused: int
    seconds: float
    started_at: datetime
    finished_at: datetime | None
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """What is kept of a sample's score under some weights; losses in nats. The last five are None where they were not
    asked for, or could not be had."""

    num_tokens: int
    mean_nll: float
    sum_nll: float
    mean_probability: float | None
    min_probability: float | None
    unconditional_nll: float | None
    ifd: float | None
    pmi: float | None


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model that the run used: role `base`, `refiner` or `selector` in round 0, `trained` in round t. Losses in nats
    per response token: `eval_loss` by the scoring service on the held-out data."""

    round: int
    role: str
    uri: str
    digest: str
    training_run: str | None
    train_loss: float | None
    eval_loss: float | None
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """What was decided for one row of one round, joined with the row."""

    position: int
    row_id: str
    sample_hash: str
    origin: str
    axes: tuple[str, ...]
    actions: tuple[str, ...]
    signals: Mapping[str, float | None]
    reasons: tuple[str, ...]
    hints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RewriteRecord:
    """One rewrite that a decision asked for, with its texts. `after` is None where every attempt was rejected; then
    `reason` and `message` say why. `acceptance`: how it was tried, where more than rules decide."""

    row_id: str
    strategy: str
    before: tuple[Message, ...]
    after: tuple[Message, ...] | None
    code: int
    reason: str
    message: str
    attempts: tuple[Attempt, ...]
    acceptance: Acceptance | None = None

    @property
    def accepted(self) -> bool:
        """Whether it went on to the next data set, where that has room for it."""
        return self.after is not None and (self.acceptance is None or self.acceptance.accepted)


@dataclass(frozen=True, slots=True)
class CandidateStory:
    """One candidate for a row of CLEAR. `rejection` says why it was not compared, or why the comparison failed."""

    row_id: str
    number: int
    text: str
    rejection: str
    preference: Preference | None


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Items of one step that failed for the same reason; `example` is one message, or what a judge said."""

    round: int
    step: str  # the name of a step, such as score_pre, judge or refine
    reason: str
    count: int
    example: str
