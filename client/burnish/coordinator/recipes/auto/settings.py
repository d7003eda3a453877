"""The recipe that chooses by itself, as settings: filtering (`recipes/filter`) by the signal and in the way that was
measured to do best over tasks and kinds of flaws (docs/efficacy.md), with the share that is kept chosen by trusted rows
where some are given."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from burnish.coordinator.recipes.filter.settings import MOST_PASSES, FilterSettings


class AutoSettings(FilterSettings):
    """One run that chooses by itself."""

    RECIPE: ClassVar[str] = "auto"

    passes: int = Field(2, ge=1, le=MOST_PASSES, description="see FilterSettings")
    shares: tuple[float, ...] = Field((0.85, 0.7, 0.5), description="see FilterSettings; not used without trusted rows")

    def tried(self) -> tuple[float, ...]:
        """See FilterSettings. Without trusted rows there is nothing to choose by, and `keep` says how many stay."""
        return self.shares if self.trusted else ()
