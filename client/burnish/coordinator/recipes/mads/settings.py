"""MADS as settings: everything that determines what a run makes.

Of the paper (arXiv 2605.30857) only the abstract could be read: a core set of 15% chosen by neural activation states,
with a small selector and larger trained models. Rule, objective and their defaults are our derivation; docs/coverage.md
says why. The method itself is written out in `loop.py` beside this.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from burnish._coverage_types import (
    ActivationPooling,
    CoverageObjective,
    CoverageOptimizer,
    CoverageSettings,
    FeatureRule,
    FeatureWeighting,
)
from burnish._types import Hyperparameters, TokenSpan
from burnish.coordinator.content import derive_seed
from burnish.coordinator.coverage import CALIBRATED, ON_VECTORS, FeatureChoice, budget_size, parse_boundaries
from burnish.coordinator.recipes.base import NoEffect, RecipeSettings, absolute
from burnish.coordinator.recipes.shares import Part


class MadsSettings(RecipeSettings):
    """One run of MADS-style selection. What the settings of features and selection mean: embedding.proto."""

    RECIPE: ClassVar[str] = "mads"
    STEPS: ClassVar[tuple[str, ...]] = (
        "read",
        "calibrate",
        "features",
        "select",
        "project",
        "assemble",
        "train",
        "evaluate",
    )

    rounds: int = Field(1, ge=1, le=1)
    selector: str = Field("", description="the model whose neurons are looked at; default: the one that is trained")
    budget: Part = Field(0.15, description="of different samples: below 1 a share, else a number")

    rule: FeatureRule = FeatureRule.STANDARDIZED_TOP_K
    k: int | None = Field(None, ge=1, le=1024)
    pooling: ActivationPooling = ActivationPooling.MAX
    tokens: TokenSpan = TokenSpan.RESPONSE
    max_tokens: int = Field(1024, ge=16, le=1 << 20)
    calibration_size: int = Field(2000, ge=2)
    length_boundaries: tuple[int, ...] = Field(
        (), max_length=15, description="numbers of tokens; neurons are compared with samples of like length alone"
    )

    objective: CoverageObjective = CoverageObjective.LOG
    optimizer: CoverageOptimizer | None = None
    weighting: FeatureWeighting = FeatureWeighting.UNIFORM
    epsilon: float = Field(0.05, gt=0, lt=1)

    select_only: bool = Field(False, description="stop before any training")
    random_subsets: int = Field(3, ge=0, le=20, description="trained on to compare with, where there is held-out data")
    compare_full: bool = Field(True, description="train on all rows too, where there is held-out data")

    @field_validator("length_boundaries", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return parse_boundaries(value) if isinstance(value, str) else value

    @field_validator("length_boundaries")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(low >= high for low, high in pairwise((0, *value))):
            raise ValueError(f"they are {list(value)}; expected numbers of tokens above 0, each larger than the last")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> MadsSettings:
        features = self.features()
        if self.length_boundaries and (features is None or not features.is_calibrated):
            what = f"objective {self.objective}" if features is None else f"rule {self.rule}"
            raise ValueError(f"`length_boundaries` are a calibration's, and {what} has none; leave them out")
        if self.length_boundaries and self.length_boundaries[-1] >= self.max_tokens:
            raise ValueError(
                f"`length_boundaries` end with {self.length_boundaries[-1]}, but only {self.max_tokens} tokens of a"
                " sample are read; leave out what is above, or raise `max_tokens`"
            )
        if self.objective is CoverageObjective.REPRESENTATION_FILTER:
            raise ValueError("representation_filter goes by quality, which this recipe does not measure; take another")
        if self.rule is FeatureRule.ABOVE_ZERO and self.pooling is ActivationPooling.MEAN:
            raise ValueError("rule above_zero goes by the largest value at any token; leave `pooling` out (max_signed)")
        if self.optimizer is not None and self.objective is CoverageObjective.K_CENTER:
            raise ValueError("k_center takes no `optimizer`; leave it out")
        return self

    def without_effect(self) -> Iterator[NoEffect]:
        """See RecipeSettings."""
        yield from super().without_effect()
        if self.features() is None:
            why = f"with `objective` {self.objective}, which goes by vectors and not by features; leave it out"
            for name in ("weighting", "rule", "k", "pooling", "tokens", "max_tokens", "calibration_size"):
                yield NoEffect(name, why)
        elif self.rule not in CALIBRATED:
            words = " or ".join(CALIBRATED)
            why = f"with `rule` {self.rule}, which compares with nothing; leave it out, or take {words}"
            yield NoEffect("calibration_size", why)
        if self.optimizer is not CoverageOptimizer.STOCHASTIC:
            yield NoEffect("epsilon", "but with `optimizer` stochastic; leave it out, or give that as well")

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        return ("embedding",) if self.select_only else ("embedding", "scoring", "training")

    def models(self) -> dict[str, str]:
        """See RecipeSettings."""
        return {"embedding": self.selector} if self.selector else {}

    def absolute(self) -> MadsSettings:
        """See RecipeSettings."""
        return super().absolute().model_copy(update={"selector": absolute(self.selector)})

    def hyperparameters(self, round_number: int) -> Hyperparameters:
        """All models that are compared are trained alike, with the same seed."""
        return super().hyperparameters(0)

    def size(self, num_distinct: int) -> int:
        """How many of so many different samples are selected."""
        return budget_size(self.budget, num_distinct)

    def features(self) -> FeatureChoice | None:
        """Which features coverage is counted in; None where the objective is on vectors."""
        if self.objective in ON_VECTORS:
            return None
        seed = derive_seed(self.seed, "calibration")
        return FeatureChoice(
            self.rule,
            self.k,
            self.pooling,
            self.tokens,
            self.max_tokens,
            self.calibration_size,
            seed,
            self.length_boundaries,
        )

    def coverage(self) -> CoverageSettings:
        """How the selection is made."""
        return CoverageSettings(
            objective=self.objective,
            optimizer=self.optimizer,
            weighting=self.weighting,
            epsilon=self.epsilon,
            seed=derive_seed(self.seed, "select"),
        )
