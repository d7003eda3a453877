"""What `client.scoring.confidence` and `client.scoring.compare` take and give."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from burnish._types import Choice, ItemStatus, Message, ModelVersion, Timing


class ConfidenceTier(StrEnum):
    """How much is spent on an estimate; each holds all of the one before."""

    FAST = "fast"  # self-reflection and likelihood, one pass, no sampling
    STANDARD = "standard"  # and sampled answers, compared by words
    FULL = "full"  # and contradiction judged by an NLI model instead of words


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One answer sampled from the model, compared with the response: `exact_match` (r), `similarity` (s) and
    `agreement` (o = αs + (1 - α)r), None where `status` is not ok."""

    text: str
    reply: str
    status: ItemStatus
    exact_match: bool | None
    similarity: float | None
    agreement: float | None


@dataclass(frozen=True, slots=True)
class ConfidenceEstimate:
    """Confidence in one response, in [0, 1], and all that it was made from; None where `status` is not ok.

    `consistency` (O) is None in the fast tier, `reflection` (S) where `covered_mass` is too small. `reflections` are
    p(correct), p(incorrect), p(not sure) of each question in each order.
    """

    sample_id: str
    status: ItemStatus
    confidence: float | None = None
    consistency: float | None = None
    reflection: float | None = None
    covered_mass: float = 0.0
    reflections: tuple[Choice, ...] = ()
    answers: tuple[SampledAnswer, ...] = ()
    mean_nll: float | None = None
    mean_probability: float | None = None
    min_probability: float | None = None


@dataclass(frozen=True, slots=True)
class ConfidenceBatch:
    """Reply of `scoring.confidence`."""

    model: ModelVersion
    estimates: tuple[ConfidenceEstimate, ...]
    prompt_digest: str
    timing: Timing


@dataclass(frozen=True, slots=True)
class ResponsePair:
    """Two responses to a conversation `prompt`, which ends in the user's message; `id` is unique within a call."""

    id: str
    prompt: tuple[Message, ...]
    first: str
    second: str


class Winner(StrEnum):
    """Which response is better, in both orders; else a tie."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True, slots=True)
class Preference:
    """The verdict on one pair; `p_second` is P(second is better), in [0, 1]; None where `status` is not ok.

    `orders` are p(first), p(second), p(tie), as shown with the first and with the second in front.
    """

    pair_id: str
    status: ItemStatus
    p_second: float | None = None
    winner: Winner | None = None
    orders: tuple[Choice, ...] = ()
    flipped: bool = False
    log_length_ratio: float | None = None
    length_guarded: bool = False


@dataclass(frozen=True, slots=True)
class CompareBatch:
    """Reply of `scoring.compare`."""

    model: ModelVersion
    preferences: tuple[Preference, ...]
    prompt_digest: str
    timing: Timing

    @property
    def flip_rate(self) -> float:
        """Share of the verdicts whose two orders named different winners, in [0, 1]; 0 of none."""
        flips = [one.flipped for one in self.preferences if one.status.ok]
        return sum(flips) / len(flips) if flips else 0.0
