"""Bilevel data selection as settings: everything that determines what a run makes.

Xiao and Chen, arXiv 2511.21056, with the penalty method of SEAL (arXiv 2410.07471), whose published hyperparameters can
be given: --weighting softmax --penalty-start 1.0 --penalty-decay 0.03. The default weighting, a sigmoid on centred
losses, is our derivation; docs/bilevel.md says why. The method itself is written out in `loop.py` beside this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from burnish._training_types import BilevelSelection
from burnish._types import Hyperparameters
from burnish.coordinator.recipes.base import RecipeSettings
from burnish.coordinator.recipes.shares import Part, Share


class BdsSettings(RecipeSettings):
    """One run of bilevel data selection. What the settings of the selector mean: training.proto."""

    RECIPE: ClassVar[str] = "bds"
    STEPS: ClassVar[tuple[str, ...]] = ("read", "split", "train", "evaluate", "weigh", "decide", "assemble")

    rounds: int = Field(1, ge=1, le=1)
    validation: tuple[str, ...] = Field(
        (), description="files with samples that can be trusted; never part of the data that come out"
    )
    validation_split: Part | None = Field(
        None, description="rows held out of the data as validation set: below 1 a share, else a number"
    )
    keep: Share = Field(0.8, gt=0, le=1, description="share of the rows that is trained on in the end")

    weighting: Literal["sigmoid", "softmax"] = "sigmoid"
    auxiliary: bool = Field(False, description="Algorithm 1, with a second model, instead of Algorithm 2")
    penalty_start: Share = Field(0.8, ge=0, le=1)
    penalty_decay: Share = Field(0.05, ge=0, le=1)
    selector_learning_rate: float | None = Field(None, gt=0)
    selection_epochs: float = Field(3.0, gt=0, description="passes over the data while weights are learnt")

    compare: bool = Field(True, description="train on what there is to compare with, where there is held-out data")
    random_subsets: int = Field(3, ge=0, le=20, description="of them, random subsets of the same size")

    @field_validator("validation", mode="before")
    @classmethod
    def _validation_files(cls, value: Any) -> Any:
        return cls._one_or_many(value)

    @model_validator(mode="after")
    def _consistent(self) -> BdsSettings:
        if bool(self.validation) == (self.validation_split is not None):
            raise ValueError(
                "weights are learnt from a validation set: give either files (`validation`) or how much of the data to"
                " hold out for it (`validation_split`)"
            )
        return self

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        return ("scoring", "training")

    def files(self) -> dict[str, tuple[str, ...]]:
        """See RecipeSettings."""
        return super().files() | {"validation": self.validation}

    def selection(self, uri: str, digest: str) -> BilevelSelection:
        """How weights are learnt from the validation set at `uri`."""
        return BilevelSelection(
            validation_data_uri=uri,
            validation_data_digest=digest,
            weighting=self.weighting,
            auxiliary=self.auxiliary,
            penalty_start=self.penalty_start,
            penalty_decay=self.penalty_decay,
            selector_learning_rate=self.selector_learning_rate,
        )

    def hyperparameters(self, round_number: int) -> Hyperparameters:
        """All models that are compared are trained alike, with the same seed."""
        return super().hyperparameters(0)

    def learning_hyperparameters(self, round_number: int) -> Hyperparameters:
        """How the model that weights are learnt with is trained."""
        return replace(self.hyperparameters(round_number), num_epochs=self.selection_epochs, max_steps=None)
