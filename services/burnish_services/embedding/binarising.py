"""From activations to stored features, as a collection's settings say: between `settings.py` and the mathematics."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.collection import FeatureLayout
from burnish_services.embedding.coverage import binarise
from burnish_services.embedding.coverage.moments import BinnedMoments
from burnish_services.embedding.settings import FeatureSettings, Rule
from burnish_services.runtime.errors import PreconditionFailed


class Binariser:
    """Makes one sample's activations its active features."""

    def __init__(self, settings: FeatureSettings, neurons: tuple[int, int], moments: BinnedMoments | None) -> None:
        """For a model of `neurons`, (layers, neurons of each). `moments`: where the rule is calibrated. Raises
        PreconditionFailed where they are of another model, or too few neurons can be told apart."""
        self._settings, self._moments = settings, moments
        num_layers, width = neurons
        self._k = min(settings.k or binarise.default_k(width), width)
        if moments is not None:
            self._check(moments, neurons)
        sections = settings.num_sections if settings.rule is Rule.SECTIONS else 1
        self.layout = FeatureLayout(num_layers, width * sections, self._k if settings.rule.is_packed else 0)

    def __call__(self, activations: NDArray[np.float32], num_tokens: int) -> NDArray[np.uint16] | NDArray[np.uint32]:
        """The features of activations (layers, neurons) pooled over `num_tokens` tokens, ascending."""
        settings = self._settings
        match settings.rule:
            case Rule.TOP_K:
                return binarise.top_k(activations, self._k)
            case Rule.ABOVE_ZERO:
                return binarise.above_zero(activations)
            case Rule.MIN_MAX:
                return binarise.min_max_above(activations, settings.threshold)
        assert self._moments is not None
        usual = self._moments.of(num_tokens)
        if settings.rule is Rule.SECTIONS:
            return binarise.sections(activations, usual.low, usual.high, settings.num_sections)
        return binarise.top_k(binarise.standardise(activations, usual.mean, usual.std), self._k)

    def _check(self, moments: BinnedMoments, neurons: tuple[int, int]) -> None:
        settings = self._settings
        for usual in moments.bins:
            if usual.mean.shape != neurons:
                raise PreconditionFailed(
                    "OTHER_WEIGHTS",
                    f"calibration {settings.calibration!r} is of {usual.mean.shape} neurons, the model has {neurons}; "
                    "calibrate on this model",
                )
            alive = int((usual.std >= binarise.STEADY).sum(axis=1).min())
            if settings.rule is Rule.STANDARDIZED_TOP_K and alive < self._k:
                raise PreconditionFailed(
                    "CALIBRATION_TOO_SMALL",
                    f"after calibration {settings.calibration!r} only {alive} neurons of a layer vary, {self._k} are "
                    f"wanted of each ({usual.count} samples were measured); measure more samples, or lower k",
                )
