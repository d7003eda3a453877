"""Which features coverage is counted in, and under which names a service keeps them: by content, so that what was
computed once for the same weights and the same settings is found again, whoever asks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from burnish._coverage_types import (
    ActivationPooling,
    ActivationSettings,
    CoverageObjective,
    FeatureRule,
    FeatureSettings,
)
from burnish._types import ModelVersion, TokenSpan
from burnish.coordinator.content import digest_of, set_digest
from burnish.coordinator.policy.amount import PART

CALIBRATED = (FeatureRule.STANDARDIZED_TOP_K, FeatureRule.SECTIONS)
_FAR, _HUBS = 0.3, 0.1  # a rank correlation, and a share of all activity, that a reader should know of
ON_VECTORS = (
    CoverageObjective.FACILITY_LOCATION,
    CoverageObjective.K_CENTER,
    CoverageObjective.REPRESENTATION_FILTER,
)

CALIBRATION_FINISHED = "CALIBRATION_FINISHED"  # the reason of a refusal: nothing more is measured for it


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """MADS-style features: the `k` neurons of each layer (None: the service's default) that stand out on a sample's
    `tokens`, against what is usual for them on `calibration_size` seeded random samples; apart for samples below,
    between and above `length_boundaries`, in tokens."""

    rule: FeatureRule = FeatureRule.STANDARDIZED_TOP_K
    k: int | None = None
    pooling: ActivationPooling = ActivationPooling.MAX
    tokens: TokenSpan = TokenSpan.RESPONSE
    max_tokens: int = 1024
    calibration_size: int = 2000
    seed: int = 0
    length_boundaries: tuple[int, ...] = ()

    @property
    def activations(self) -> ActivationSettings:
        """What is read of each sample. Of ABOVE_ZERO the largest value where MAX, the default, stands: practically
        every neuron has a magnitude above zero, so that the service refuses it."""
        pooling = self.pooling
        if self.rule is FeatureRule.ABOVE_ZERO and pooling is ActivationPooling.MAX:
            pooling = ActivationPooling.MAX_SIGNED
        return ActivationSettings(self.tokens, pooling, self.max_tokens)

    @property
    def is_calibrated(self) -> bool:
        """Whether neurons are compared with what is usual for them."""
        return self.rule in CALIBRATED

    def calibration_ids(self, ids: Sequence[str]) -> list[str]:
        """The ids to calibrate on, which depend on the set of ids alone."""
        distinct = sorted(set(ids))
        chosen = random.Random(self.seed).sample(distinct, min(self.calibration_size, len(distinct)))
        return sorted(chosen)

    def calibration_name(self, version: ModelVersion, ids: Sequence[str]) -> str:
        """The name of the calibration of this model on these ids."""
        made_of = [asdict(self.activations), set_digest(ids), list(self.length_boundaries)]
        return f"{_prefix(version)}-{digest_of(made_of)[:16]}"

    def feature_settings(self, calibration: str) -> FeatureSettings:
        """As the service wants them."""
        activations = None if self.is_calibrated else self.activations
        return FeatureSettings(self.rule, calibration, activations, self.k)


def features_collection(
    version: ModelVersion, source: TokenSpan, choice: FeatureChoice | None, calibration: str
) -> str:
    """The name of the collection of this model's vectors over `source`, and of features where there is a `choice`."""
    features = None if choice is None else [choice.rule.value, choice.k, asdict(choice.activations), calibration]
    return f"{_prefix(version)}-{digest_of([source.value, features])[:16]}"


def selection_notes(length_correlation: float | None, hub_share: float) -> list[str]:
    """What a reader should know of a selection: whether it goes by length, and whether a few neurons are active
    everywhere; see CoverageStatistics."""
    notes = []
    if length_correlation is not None and abs(length_correlation) > _FAR:
        order = "longer" if length_correlation < 0 else "shorter"
        notes.append(
            f"The selection goes by length as well: {order} samples were picked first (rank correlation"
            f" {length_correlation:.2f})."
        )
    if hub_share > _HUBS:
        notes.append(
            f"One feature in a hundred makes {hub_share:.0%} of all activity: a few neurons are active everywhere. The"
            " rule standardized_top_k avoids that."
        )
    return notes


def _prefix(version: ModelVersion) -> str:
    computed = digest_of([version.engine.partition("/")[0], version.dtype, version.chat_template_digest])
    return f"f{version.digest.removeprefix('sha256:')[:16]}-{computed[:8]}"


def parse_budget(text: str) -> float:
    """A share below 1, such as 15% or 0.15, or a whole number of at least 1. Raises ValueError."""
    return PART.parse(text)


def parse_boundaries(text: str) -> tuple[int, ...]:
    """Numbers of tokens such as 64,256. Raises ValueError."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"{text!r} are no numbers of tokens; expected them such as 64,256") from None


def budget_size(budget: float, num_distinct: int) -> int:
    """How many of so many different samples a budget is: below 1 a share, else a number; at least 1, at most all."""
    return min(PART.of(budget, num_distinct), num_distinct)
