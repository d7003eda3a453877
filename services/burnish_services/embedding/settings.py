"""What is embedded of a sample, and which of its model's neurons count as active: settings, and no more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from burnish_services.engine.base import ActivationPooling


class Source(StrEnum):
    """Which tokens of a sample something is averaged over."""

    USER = "user"  # a vector: the user's text alone, without chat template; features: that text inside the conversation
    RESPONSE = "response"  # the assistant's, inside the conversation
    ALL = "all"  # the whole conversation, the template's tokens included


class Rule(StrEnum):
    """When a neuron counts as active on a sample; see `coverage.binarise`."""

    STANDARDIZED_TOP_K = "standardized_top_k"  # among its layer's k furthest above what is usual for it
    TOP_K = "top_k"  # among its layer's k largest (TKNC)
    ABOVE_ZERO = "above_zero"  # above zero anywhere
    MIN_MAX = "min_max"  # above a share of its layer's range on this sample (DeepXplore)
    SECTIONS = "sections"  # in which section of its range it lies (KMNC)

    @property
    def is_calibrated(self) -> bool:
        """Whether it compares a neuron with what is usual for it."""
        return self in (Rule.STANDARDIZED_TOP_K, Rule.SECTIONS)

    @property
    def is_packed(self) -> bool:
        """Whether every sample has the same number of active neurons in each layer."""
        return self in (Rule.STANDARDIZED_TOP_K, Rule.TOP_K)


@dataclass(frozen=True, slots=True)
class ActivationSettings:
    """Which activations a sample has: over which tokens, made one number how, of at most how many tokens."""

    source: Source = Source.RESPONSE
    pooling: ActivationPooling = ActivationPooling.MAX
    max_tokens: int = 1024  # of the conversation; what follows is not read


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """Which features a sample has. `calibration` and its version are set where the rule wants one, else empty."""

    activations: ActivationSettings = ActivationSettings()
    rule: Rule = Rule.STANDARDIZED_TOP_K
    k: int = 0  # neurons of a layer, of the rules that take the largest; 0: `coverage.binarise.default_k`
    threshold: float = 0.0  # of MIN_MAX, in [0, 1)
    num_sections: int = 0  # of SECTIONS
    calibration: str = ""
    calibration_version: str = ""
