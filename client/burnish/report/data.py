"""What a report says, as plain data. `collect.py` fills it from the ledger, `render.py` turns it into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from burnish.coordinator.policy.thresholds import Threshold
from burnish.coordinator.records import FailureRecord
from burnish.report.short_data import InShort
from burnish.report.truth_data import TruthRound

AXES = ("hard", "sparse", "low_quality")


@dataclass(frozen=True, slots=True)
class Change:
    """One row that a round changed or wanted to change."""

    row_id: str
    axes: tuple[str, ...]
    action: str  # simplify | improve | diversify
    reasons: tuple[str, ...]
    before_prompt: str
    before_response: str
    after_prompt: str | None  # None: no attempt passed the rules
    after_response: str | None
    rejection: str  # why, for people; empty where accepted
    dropped: bool = False  # the row left the set for want of a rewrite
    failed: bool = False  # there is no rewrite, since the service could not make one; no rule speaks against it


@dataclass(frozen=True, slots=True)
class StepTiming:
    """What a step cost; `seconds` is work time, interruptions left out. `part`: of what, where it is of no round."""

    name: str
    state: str
    total: int
    reused: int
    seconds: float
    part: str = ""

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

    rates: Sequence[FlawRate]
    clean: FlawRate  # rows without a planted flaw
    note: str  # which rows are not counted, one sentence


@dataclass(frozen=True, slots=True)
class Round:
    """One round of any recipe: the data it began with, what was measured, what went wrong, what it cost."""

    number: int
    num_rows: int
    thresholds: Sequence[Threshold]
    signals: Mapping[str, Sequence[float]]  # finite values per signal, in row order
    failures: Sequence[FailureRecord]  # with examples short enough for a line
    timings: Sequence[StepTiming]


@dataclass(frozen=True, slots=True)
class Map:
    """A picture of a set: points by what became of their rows. `shares` of the variance that the axes show, by PCA;
    `num_placed` of `num_samples` different samples have a place, the others were not drawn."""

    points: Mapping[str, Sequence[tuple[float, float]]]
    method: str  # pca | umap
    shares: tuple[float, float]
    num_placed: int
    num_samples: int


@dataclass(frozen=True, slots=True)
class Tried:
    """How a round's rewrites fared where more than rules decide: how many were accepted, broke rules, had loss, ratings
    or both against them, and of how many something was not known; and how many rows left the set for want of one."""

    asked: int
    accepted: int
    invalid: int
    by_loss: int
    by_rating: int
    by_both: int
    unknown: int
    dropped: int


@dataclass(frozen=True, slots=True)
class MiddoRound(Round):
    """What Middo selected in a round and what was made of it. `map`: by action, "several" where a row has more than
    one; None where there is none. `rejected`: rewrites that rules, or what they were tried by, spoke against; `failed`:
    those that the service could not make. `tried`: None where rules alone decide. `declined`: rewrites that were not
    even made, since none is accepted. `flaws`: None where nobody knows what is wrong."""

    selected: Mapping[str, int]  # rows per axis
    rewritten: int
    added: int
    rejected: int
    changes: Sequence[Change]
    failed: int = 0
    map: Map | None = None
    tried: Tried | None = None
    declined: int = 0
    flaws: FlawTable | None = None

    @property
    def dropped(self) -> int:
        """Rows that left the set for want of a rewrite."""
        return len({change.row_id for change in self.changes if change.dropped})


@dataclass(frozen=True, slots=True)
class Correction:
    """One response that a candidate replaced."""

    row_id: str
    reasons: Sequence[str]
    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as a reader is shown it, and why it was kept or dropped."""

    row_id: str
    reasons: Sequence[str]
    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows whose confidence lies in [low, high): how many, their mean confidence, and the share whose response is
    right."""

    low: float
    high: float
    count: int
    mean: float
    right: float


@dataclass(frozen=True, slots=True)
class ActionsByTruth:
    """What became of the rows with one kind of flaw; `equal` counts corrections that say what is right, None where that
    is not known of any row, and `told` those of which it is known."""

    flaw: str  # none: rows without one
    rows: int
    actions: Mapping[str, int]
    equal: int | None
    told: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """A round held against what is known to be wrong. `precision`: share of the rows that failed the filter which are
    wrong; `recall`: share of the wrong ones that failed; `harmed`: right responses that were dropped, or replaced by
    something else. `calibration_error` is the expected one over the bins, None where confidence is not what was
    used."""

    precision: float | None
    recall: float | None
    by_truth: Sequence[ActionsByTruth]
    harmed: int
    num_right: int
    bins: Sequence[ReliabilityBin]
    calibration_error: float | None


@dataclass(frozen=True, slots=True)
class ClearRound(Round):
    """What CLEAR did with the rows of a round. `map`: by action, "left_out" of those that were left out to hold the
    set's size; None where there is none, or nothing was left out."""

    actions: Mapping[str, int]
    failed: int  # the filter
    compared: int
    flipped: int
    corrections: Sequence[Correction]
    dropped: Sequence[ShownRow]
    calibration: Calibration | None
    map: Map | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """What the beginnings of an order cover: sizes, objective, distinct features."""

    num_selected: Sequence[int]
    value: Sequence[float]
    num_features: Sequence[int]


@dataclass(frozen=True, slots=True)
class MadsRound(Round):
    """What MADS-style selection chose, what that covers, and what came of training on it."""

    actions: Mapping[str, int]
    curve: Curve | None
    random_curves: Sequence[Curve]
    num_features: int
    length_correlation: float | None
    hub_share: float
    map: Map | None
    picked: Sequence[ShownRow]  # the first ones, in order of picking


@dataclass(frozen=True, slots=True)
class WeightsAt:
    """The weights of all rows after `step` optimiser steps. `auroc`: the probability that a right row has a larger one
    than a wrong one; None where what is wrong is not known."""

    step: int
    weights: Sequence[float]
    auroc: float | None


@dataclass(frozen=True, slots=True)
class WeighedRow:
    """One row and what it counts."""

    row_id: str
    action: str
    weight: float
    reasons: Sequence[str]
    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class BdsRound(Round):
    """What bilevel selection learnt and kept, and what came of training on it."""

    actions: Mapping[str, int]
    snapshots: Sequence[WeightsAt]
    weighed: Sequence[WeighedRow]  # the first and the last in order of rank


@dataclass(frozen=True, slots=True)
class TriedShare:
    """One share of the rows, the best by `signal`, that a model was trained on to see whether it is better than all of
    them: the loss on the trusted rows, its difference from that of all rows and the standard error of that, nats per
    response token. `held`: of the share only so many of all rows, which cover it best."""

    signal: str | None
    share: float
    held: float | None
    loss: float
    difference: float
    error: float
    taken: bool


@dataclass(frozen=True, slots=True)
class FilterRound(Round):
    """What a filter kept, and what came of training on it. `left_out`: rows that were kept, but left out to hold the
    set's size; `map`: of the kept ones, where there is one."""

    actions: Mapping[str, int]
    left_out: int
    tried: Sequence[TriedShare]
    dropped: Sequence[ShownRow]  # the last in rank first
    weighted: bool = False  # rows counted by their rank while they were trained on
    map: Map | None = None


@dataclass(frozen=True, slots=True)
class Refresh:
    """One pause of a self-refining training. `rejected`: answers by what is wrong with them; `stopped`: why nothing was
    learnt from answers from there on. The others: `policy.refinement.Vitals`."""

    step: int
    reason: str
    effective_share: float | None
    num_questions: int
    num_answers: int
    num_accepted: int
    rejected: Mapping[str, int]
    entropy: float | None
    length: float | None
    distinct: float | None
    divergence: float | None
    stopped: str


@dataclass(frozen=True, slots=True)
class BmoRound(BdsRound):
    """What bilevel selection learnt and kept, and what the model answered anew. Of `num_told` refined rows whose right
    response is known, `num_right` now have it."""

    refreshes: Sequence[Refresh]
    refined: Sequence[Correction]
    num_told: int
    num_right: int


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the run used; losses in nats per response token. `losses`: (optimiser step, training loss), of a
    model that this run trained itself."""

    label: str
    uri: str
    digest: str
    train_loss: float | None
    eval_loss: float | None
    losses: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything in a report. `truth`: by round, where it is known what is wrong."""

    run_id: str
    recipe: str
    version: str
    created_at: str
    finished: bool
    rows_in: int
    rows_out: int | None
    rounds: Sequence[Round]
    last_timings: Sequence[StepTiming]  # of what is before the first round, and after the last
    models: Sequence[Model]
    config: Mapping[str, object]
    notes: Sequence[str] = field(default=())
    short: InShort | None = None
    truth: Sequence[TruthRound] = ()
