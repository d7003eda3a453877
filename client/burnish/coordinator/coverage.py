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

CALIBRATED = (FeatureRule.STANDARDIZED_TOP_K, FeatureRule.SECTIONS)
ON_VECTORS = (
    CoverageObjective.FACILITY_LOCATION,
    CoverageObjective.K_CENTER,
    CoverageObjective.REPRESENTATION_FILTER,
)


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """MADS-style features: the `k` neurons of each layer (None: the service's default) that stand out on a sample's
    `tokens`, against what is usual for them on `calibration_size` seeded random samples."""

    rule: FeatureRule = FeatureRule.STANDARDIZED_TOP_K
    k: int | None = None
    pooling: ActivationPooling = ActivationPooling.MAX
    tokens: TokenSpan = TokenSpan.RESPONSE
    max_tokens: int = 1024
    calibration_size: int = 2000
    seed: int = 0

    @property
    def activations(self) -> ActivationSettings:
        """What is read of each sample."""
        return ActivationSettings(self.tokens, self.pooling, self.max_tokens)

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
        return f"{_prefix(version)}-{digest_of([asdict(self.activations), set_digest(ids)])[:16]}"

    def feature_settings(self, calibration: str) -> FeatureSettings:
        """As the service wants them."""
        activations = None if self.is_calibrated else self.activations
        return FeatureSettings(self.rule, calibration, activations, self.k)

    def collection_name(self, version: ModelVersion, calibration: str, source: TokenSpan) -> str:
        """The name of the collection of this model's vectors over `source` and features."""
        settings = [self.rule.value, self.k, asdict(self.activations), calibration, source.value]
        return f"{_prefix(version)}-{digest_of(settings)[:16]}"


def _prefix(version: ModelVersion) -> str:
    computed = digest_of([version.engine.partition("/")[0], version.dtype, version.chat_template_digest])
    return f"f{version.digest.removeprefix('sha256:')[:16]}-{computed[:8]}"


def parse_budget(text: str) -> float:
    """A share below 1, such as 15% or 0.15, or a whole number of at least 1. Raises ValueError."""
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
        if 0 < value < 1 or ("%" not in text and value >= 1 and value == int(value)):
            return value
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{text!r} is no budget; expected a number such as 500, or a share such as 15% or 0.15")
