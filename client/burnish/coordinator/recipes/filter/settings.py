"""Filtering by one signal as settings: everything that determines what a run makes.

Signals and their sources: `policy/signals.py`. The method itself is written out in `loop.py` beside this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from burnish._types import Hyperparameters
from burnish.coordinator.findings import Parts
from burnish.coordinator.policy.signals import Signal
from burnish.coordinator.policy.verdict import Unscored
from burnish.coordinator.recipes.base import HOLD_STEPS, HoldSettings, NoEffect
from burnish.coordinator.recipes.shares import Share

MOST_FOLDS, MOST_PASSES, MOST_SUBSETS, MOST_SHARES = 10, 3, 20, 8
_OUTLIERS, _AMONG = 3.5, 16


class Start(StrEnum):
    """What the first pass measures rows by."""

    FOLDS = "folds"  # models of the other folds, and of the trusted rows
    TRUSTED = "trusted"  # one model of the trusted rows alone, which saw no other row


class FilterSettings(HoldSettings):
    """One run of filtering by a signal."""

    RECIPE: ClassVar[str] = "filter"
    STEPS: ClassVar[tuple[str, ...]] = (
        "read",
        "split",
        "score_pre",
        "embed",
        "choose",
        "decide",
        *HOLD_STEPS,
        "assemble",
        "train",
        "score_cross",
        "score_trusted",
        "evaluate",
    )

    rounds: int = Field(1, ge=1, le=1)
    signal: Signal = Signal.WEAKEST
    keep: Share = Field(0.7, ge=0.001, le=1, description="share of the rows that have a value, where it is given")
    shares: tuple[Share, ...] = Field(
        (), description="shares to try instead of `keep`, beside all rows; trusted rows say which is taken"
    )
    rival: Signal | None = Field(
        None, description="another signal that is tried on the middle one of the shares; the better one goes on"
    )
    cover: bool = Field(
        False,
        description="also tried, of the largest share: what covers it best, as many rows as the middle share has,"
        " counting by rank",
    )
    outliers: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="robust deviations below the median from where on rows go; by weakest 3.5 where no share is given",
    )
    errors: float = Field(2.0, ge=0, description="standard errors that a share must be better by than all rows")
    among: int = Field(
        0,
        ge=0,
        le=100,
        description="neighbours by prompt that a row's value is compared with; 0: with all rows; by weakest and"
        " calibrated 16 unless it is given",
    )
    unscored: Unscored = Field(Unscored.KEEP, description="what happens to rows without a value")
    folds: int = Field(2, ge=2, le=MOST_FOLDS, description="models that rows are measured by which they did not train")
    passes: int = Field(
        1, ge=1, le=MOST_PASSES, description="in all but the first, fold models learn from what was kept"
    )
    trusted: tuple[str, ...] = Field((), description="files with rows that can be trusted: measured and judged by")
    start: Start = Field(Start.FOLDS, description="what the first pass measures rows by")
    trusted_epochs: float = Field(
        3.0, gt=0, description="passes over trusted rows, of a model that learns from no others"
    )
    weighted: bool = Field(False, description="what is kept counts by its rank while it is trained on")

    compare: bool = Field(True, description="train on what there is to compare with, where there is held-out data")
    random_subsets: int = Field(3, ge=0, le=MOST_SUBSETS, description="of them, random subsets of the same size")

    @model_validator(mode="before")
    @classmethod
    def _as_measured(cls, values: Any) -> Any:
        """What is not given, of the signals that were measured to work so (docs/efficacy.md); the published ones are as
        published. A share that nobody knows is a bet on how many rows are wrong (docs/decisions/0012)."""
        if not isinstance(values, dict):
            return values
        signal = values.get("signal", cls.model_fields["signal"].default)
        how_many = {"shares": cls.model_fields["shares"].default, **values}
        given = [name for name in ("keep", "shares", "outliers") if how_many.get(name)]
        if "outliers" in given and len(given) > 1:
            raise ValueError(f"`outliers` say which rows go, and `{given[0]}` how many; give one of them")
        filled = {"among": _AMONG, **values} if signal in (Signal.WEAKEST, Signal.CALIBRATED) else dict(values)
        if signal == Signal.WEAKEST and not given and "outliers" not in values:
            filled["outliers"] = _OUTLIERS
        return filled

    @field_validator("trusted", mode="before")
    @classmethod
    def _trusted_files(cls, value: Any) -> Any:
        return cls._one_or_many(value)

    @field_validator("rival", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("shares", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(value.replace(" ", "").split(",")) if isinstance(value, str) else value

    @field_validator("shares")
    @classmethod
    def _distinct(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) > MOST_SHARES or len(set(value)) < len(value) or not all(0.001 <= one < 1 for one in value):
            raise ValueError(
                f"they are {list(value)}; expected at most {MOST_SHARES} different ones from 0.001 to below 1"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.passes > 1 and not self.signal.needs_folds:
            raise ValueError(
                f"`passes` are of fold models, and `signal` {self.signal} needs none; leave `passes` out, or give a"
                " `signal` of fold models (such as cross_weakest)"
            )
        if self.rival is not None and not self.tried():
            raise ValueError(
                "a `rival` is tried on the middle one of the shares, and there are none; give some (`shares`)"
            )
        if self.cover and not self.tried():
            raise ValueError("`cover` is of the largest one of the shares, and there are none; give some (`shares`)")
        if self.rival is not None and (self.rival.needs_folds or self.rival is self.signal):
            raise ValueError(
                f"the `rival` is {self.rival}; expected another signal than {self.signal}, of those of the base model"
            )
        if self.trusted and not (self.signal.learns_from_trusted or self.tried() or (self.compare and self.holdout)):
            raise ValueError(
                f"`signal` {self.signal} makes no use of trusted rows; leave them out, give held-out rows to compare"
                " what they do by themselves (`holdout`, without turning `compare` off), `shares` to try, or another"
                " `signal` (such as calibrated)"
            )
        if self.tried() and not self.trusted:
            raise ValueError(
                "trusted rows say which of the shares is taken, and there are none; give some (`trusted`: a hundred"
                " rows that somebody has looked at), or say yourself how many stay (recipe filter: `keep`, without"
                " `shares`)"
            )
        if Signal.CALIBRATED in self.signals() and not self.trusted:
            raise ValueError(
                "`signal` calibrated goes by trusted rows, and there are none; give some (`trusted`), or another"
            )
        if self.start is Start.TRUSTED and not (self.trusted and self.signal.needs_folds):
            raise ValueError(
                "`start` trusted measures rows by a model of the trusted ones; give some (`trusted`), and a `signal` of"
                " models that did not see a row (such as cross_weakest)"
            )
        if self.tried() and self.hold_size is not None:
            raise ValueError("`shares` and `hold_size` both say how many rows go on; give one of them")
        return self

    def without_effect(self) -> Iterator[NoEffect]:
        """See RecipeSettings."""
        yield from super().without_effect()
        trains_folds = self.signal.needs_folds and not (self.start is Start.TRUSTED and self.passes == 1)
        if not self.signal.needs_folds:
            yield NoEffect("folds", f"with `signal` {self.signal}, which needs no fold models; leave it out")
        elif not trains_folds:
            yield NoEffect("folds", "where `start` is trusted and there is one pass; leave it out, or give `passes`")
        if self.start is not Start.TRUSTED:
            yield NoEffect("trusted_epochs", "but where `start` is trusted; leave it out, or give that as well")
        if not self.tried():
            yield NoEffect("errors", "without `shares` to choose among; leave it out, or give some")
        elif self.passes == 1:
            yield NoEffect("keep", self._keeps_nothing(), even_by_default=True)
        if len(self.tried()) == 1:
            yield NoEffect("cover", "on a single one of `shares`, which leaves nothing to choose; give another as well")

    def _keeps_nothing(self) -> str:
        return "here: trusted rows choose among `shares`; leave one of the two out"

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """See RecipeSettings. Of `keep` and `outliers`, of which one may be given, the one that counted."""
        return super().stored({k: v for k, v in values.items() if k != "keep" or not values.get("outliers")})

    def tried(self) -> tuple[float, ...]:
        """The shares that a model is trained for each; none where `keep` says how many rows stay."""
        return self.shares

    def covers(self) -> bool:
        """Whether what covers the largest share is tried; where there is but one, it has nothing to leave out."""
        return self.cover and len(self.shares) > 1

    def middle(self) -> float:
        """The share that both signals are tried on: the middle one by size, of two the smaller."""
        return sorted(self.shares)[(len(self.shares) - 1) // 2]

    def signals(self) -> tuple[Signal, ...]:
        """Those that rows may be ranked by."""
        return (self.signal,) if self.rival is None else (self.signal, self.rival)

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        covering = self.hold_size is not None or self.among > 0 or self.covers()
        return ("scoring", "embedding", "training") if covering else ("scoring", "training")

    def files(self) -> dict[str, tuple[str, ...]]:
        """See RecipeSettings."""
        return super().files() | {"trusted": self.trusted}

    def hyperparameters(self, round_number: int) -> Hyperparameters:
        """All models that are compared, and those of the folds, are trained alike, with the same seed."""
        return super().hyperparameters(0)

    def parts(self) -> Parts:
        """How much of a score under the base model is needed."""
        unconditional = any(one.needs_unconditional for one in self.signals())
        return Parts.UNCONDITIONAL if unconditional else Parts.PROBABILITIES
