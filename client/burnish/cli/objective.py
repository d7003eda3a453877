"""What a selection on the command line may be good at: all objectives but the one that goes by a quality of samples,
which no command here measures."""

from __future__ import annotations

from enum import StrEnum

from burnish._coverage_types import CoverageObjective


class Objective(StrEnum):
    """Of `CoverageObjective`, by the same words."""

    LOG = CoverageObjective.LOG.value
    CAPPED = CoverageObjective.CAPPED.value
    MAX_COVER = CoverageObjective.MAX_COVER.value
    DECAYING = CoverageObjective.DECAYING.value
    FACILITY_LOCATION = CoverageObjective.FACILITY_LOCATION.value
    K_CENTER = CoverageObjective.K_CENTER.value
