"""CLEAR as settings: everything that determines what a run makes, with the published values as defaults where there are
any, and BSDetector's as uqlm attributes them where the paper gives none.

The method itself is written out in `loop.py` beside this, its decisions in `burnish.coordinator.policy`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field, model_validator

from burnish._confidence_types import ConfidenceTier
from burnish._types import Sampling
from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.clear import CorrectionRules, Scope
from burnish.coordinator.policy.confidence import Weights
from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.filtering import FilterRule, Ties
from burnish.coordinator.policy.verdict import Unscored
from burnish.coordinator.recipes.base import HOLD_STEPS, HoldSettings, SamplingSettings
from burnish.coordinator.recipes.shares import Share


class Signal(StrEnum):
    """What rows are filtered by. All but the first are ablations, but for `weakest`, for models that cannot judge."""

    CONFIDENCE = "confidence"  # C = beta O + (1 - beta) S
    CONSISTENCY = "consistency"  # O alone
    REFLECTION = "reflection"  # S alone
    LIKELIHOOD = "likelihood"  # exp(mean log-probability of the response)
    WEAKEST = "weakest"  # log-probability of the response's least likely token, as filter has it; not the paper's
    RATING = "rating"  # the model's direct rating of prompt and response


class Proposer(StrEnum):
    """Who proposes candidates."""

    TUNED = "tuned"  # the model fine-tuned on the rows that passed, as published
    BASE = "base"  # the base model, an ablation that trains nothing for it


class ClearSettings(HoldSettings):
    """One run of CLEAR. Comparisons and formulas: `policy.filtering`, `policy.confidence`, `policy.clear`."""

    RECIPE: ClassVar[str] = "clear"
    STEPS: ClassVar[tuple[str, ...]] = (
        "read",
        "score_pre",
        "judge",
        "confidence",
        "filter",
        "train",
        "evaluate",
        "propose",
        "compare",
        "decide",
        *HOLD_STEPS,
        "assemble",
    )

    tier: ConfidenceTier = ConfidenceTier.STANDARD
    alpha: float = Field(0.8, ge=0, le=1)
    beta: float = Field(0.7, ge=0, le=1)
    likelihood_weight: float = Field(0.0, ge=0, le=1)
    num_answers: int = Field(5, ge=1, le=32)
    answers: SamplingSettings = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_tokens=256)
    min_covered_mass: float = Field(0.5, ge=0, le=1)

    signal: Signal = Signal.CONFIDENCE
    threshold: float | None = Field(None, description="keep rows whose signal is at least this, instead of the median")
    drop_fraction: Share | None = Field(None, ge=0, lt=1, description="drop this share of the rows instead")
    ties: Ties = Ties.KEEP
    unscored: Unscored = Unscored.KEEP
    filter_only: bool = Field(False, description="stop before any training")
    control: Control = Control.NONE

    scope: Scope = Scope.FAILED
    proposer: Proposer = Proposer.TUNED
    candidates: int = Field(1, ge=1, le=32)
    propose: SamplingSettings = SamplingSettings(temperature=0.0, top_p=1.0, top_k=0, max_tokens=512)
    eta: float = Field(0.8, ge=0, le=1)
    swap: bool = True
    max_length_ratio: float | None = Field(
        None, ge=1, description="a candidate with more than so many times the words cannot win"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClearSettings:
        if self.threshold is not None and self.drop_fraction is not None:
            raise ValueError("`threshold` and `drop_fraction` both say where the line is drawn; give one of them")
        if self.threshold is not None and self.ties is Ties.RANK:
            raise ValueError("ties are ranked to drop a wanted share; with `threshold` there is none: leave `ties` out")
        if self.signal is Signal.CONSISTENCY and self.tier is ConfidenceTier.FAST:
            raise ValueError("consistency comes from sampled answers; take the tier standard or full")
        if self.candidates > 1 and self.propose.temperature == 0.0:
            raise ValueError("at temperature 0 all candidates are the same; give `propose.temperature` a value above 0")
        return self

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        working = ("scoring",) if self.filter_only else ("scoring", "rewriting", "training")
        return working if self.hold_size is None else (*working, "embedding")

    def weights(self) -> Weights:
        """How parts become a confidence."""
        return Weights(self.alpha, self.beta, self.likelihood_weight, self.min_covered_mass)

    def filter_rule(self) -> FilterRule:
        """Where the first round's line is drawn."""
        return FilterRule(self.threshold, self.drop_fraction, self.ties, self.control, self.seed)

    def correction_rules(self) -> CorrectionRules:
        """When a candidate replaces a response."""
        return CorrectionRules(self.eta, self.swap, self.max_length_ratio, self.min_covered_mass)

    def answer_sampling(self) -> Sampling:
        """How the model's own answers are sampled; the same in every round."""
        return self.answers.sampling(derive_seed(self.seed, "answers"))

    def propose_sampling(self) -> Sampling:
        """How candidates are sampled."""
        return self.propose.sampling(derive_seed(self.seed, "propose"))
