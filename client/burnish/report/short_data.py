"""What the first page of a report says, as plain data; the same for every recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from burnish.coordinator.arms import ArmKind
from burnish.coordinator.policy.contrast import Scores


@dataclass(frozen=True, slots=True)
class Arm:
    """One data set that was trained on, to compare: held-out losses of its models, nats per response token. `scores`
    are by model, as `losses`; empty where they are not known by sample."""

    name: str
    rows: int
    losses: Sequence[float]
    kind: ArmKind = ArmKind.OTHER
    scores: Sequence[Scores] = ()

    @property
    def mean(self) -> float | None:
        """Of its models; None where none was measured."""
        return sum(self.losses) / len(self.losses) if self.losses else None


@dataclass(frozen=True, slots=True)
class Flow:
    """What became of the rows: kept word for word, rewritten (a corrected response counts), set aside to judge by,
    dropped, and added."""

    kept: int
    rewritten: int
    aside: int
    dropped: int
    added: int

    @property
    def rows_in(self) -> int:
        """Rows of the source."""
        return self.kept + self.rewritten + self.aside + self.dropped

    @property
    def rows_out(self) -> int:
        """Rows of the result."""
        return self.kept + self.rewritten + self.added


class Outcome(StrEnum):
    """What can be said of what a run did to the model."""

    BETTER = "better"  # than all rows, and than every random control
    KEPT = "kept"  # nothing was left out: its model is that of all rows
    MIXED = "mixed"  # better than chance, not than all rows
    CHANCE = "chance"  # not to be told from it
    WORSE = "worse"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome in a sentence, and what it stands on."""

    outcome: Outcome
    sentence: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """How much of what right data would have gained the run gained: (all rows - run) / (all rows - right rows only),
    with a 95% interval over the held-out samples; infinite where it has no bound. Without a value, `untold` says
    why."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    untold: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """Work time in seconds: of all steps, by what was done, and of the whole what was spent on models to compare
    with."""

    seconds: float
    by_work: Mapping[str, float]
    comparing: float


@dataclass(frozen=True, slots=True)
class InShort:
    """The first page. `arms`: those shown, in order of showing; `gap` is None where nothing is known to be wrong."""

    flow: Flow | None
    arms: Sequence[Arm]
    held_out: int
    verdict: Verdict
    gap: Gap | None
    cost: Cost
    next_step: str
