"""The recipe that chooses by itself, as settings: filtering (`recipes/filter`) compared with the neighbours', with
what rows are ranked by (the base model's least likely token, or several measures weighed by trusted rows) and the
share that is kept, or all rows, chosen by trusted ones. It has no way without them: what of the data is wrong, and
whether leaving it out makes a better model, cannot be told from the data alone (docs/efficacy.md). No model that
measures rows learns from them here: one that did would find those rows best that are like them, and what is trained
on these would do well on them (docs/decisions/0009)."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field, model_validator

from burnish.coordinator.policy.signals import Signal
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.shares import Share


class AutoSettings(FilterSettings):
    """One run that chooses by itself."""

    RECIPE: ClassVar[str] = "auto"

    among: int = Field(16, ge=0, le=100, description="see FilterSettings")
    rival: Signal | None = Field(Signal.CALIBRATED, description="see FilterSettings")
    shares: tuple[Share, ...] = Field((0.85, 0.7, 0.5), min_length=1, description="see FilterSettings")

    @model_validator(mode="before")
    @classmethod
    def _no_rival_of_itself(cls, values: Any) -> Any:
        """Whose signal is the rival's own has none, unless one is given."""
        is_own = isinstance(values, dict) and values.get("signal") == Signal.CALIBRATED and "rival" not in values
        return {**values, "rival": None} if is_own else values

    def _keeps_nothing(self) -> str:
        return (
            "here: trusted rows choose among `shares`. To keep a fixed share, use"
            f" `burnish run filter --keep {self.keep:g}`"
        )
