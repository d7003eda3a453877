"""Embeds samples into a collection: what is stored already is not embedded again, and weights are never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.binarising import Binariser
from burnish_services.embedding.calibrations import Calibration, CalibrationStore, Measured
from burnish_services.embedding.collection import Collection, EmbeddedText, TextRecord, Weights
from burnish_services.embedding.core import Passage, Plan, Reading, passage, read_passages, reusable
from burnish_services.embedding.coverage.moments import BinnedMoments
from burnish_services.embedding.settings import FeatureSettings, Source
from burnish_services.embedding.store import VectorStore, check_weights
from burnish_services.embedding.worker import Worker
from burnish_services.engine.base import EngineFailure
from burnish_services.engine.hosting import ModelHost, ModelName, ModelVersion
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.errors import PreconditionFailed

Samples = Mapping[str, Sequence[ChatMessage]]


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of a batch. `vectors` has those that were asked for."""

    weights: Weights
    results: dict[str, TextRecord | EngineFailure]  # by id
    vectors: dict[str, NDArray[np.float32]]
    num_stored: int  # vectors newly stored


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What became of a batch of samples to calibrate on."""

    weights: Weights
    results: dict[str, int | EngineFailure]  # by id: tokens measured, 0 where the sample had been measured before


class Filler:
    """Fills collections and calibrations of one store with what one engine reads."""

    def __init__(
        self, host: ModelHost, store: VectorStore, calibrations: CalibrationStore, storing: Worker, binarising: Worker
    ) -> None:
        self._host = host
        self._store = store
        self._calibrations = calibrations
        self._storing = storing
        self._binarising = binarising

    async def fill(
        self,
        model: ModelName,
        name: str,
        samples: Samples,
        record: CallRecord,
        *,
        truncate: bool,
        return_vectors: bool,
    ) -> Filled:
        """Embeds samples, by id, with `model` into the collection `name`; where that is empty, their user text, and
        nothing is stored.

        Raises what `ModelHost.using` raises, NotFound, and PreconditionFailed where other weights filled the
        collection, or its calibration is gone or of other weights.
        """
        if not name:
            passages, failures = _passages(samples, Plan(Source.USER))
            weights, answers, _ = await self._read(model, passages, Plan(Source.USER), record, truncate)
            embedded = await self._embedded(answers, None)
            return _filled(weights, failures, embedded, _vectors(embedded) if return_vectors else {}, 0)
        collection, stored = await self._storing.run(self._store.find, name, list(samples))
        plan = Plan(collection.source, collection.features.activations if collection.features else None)
        passages, failures = _passages(samples, plan)
        known: dict[str, TextRecord | EngineFailure] = {**failures}
        cut = truncate or collection.features is not None  # conversations are cut for features in any case
        for item, one in passages.items():
            if (found := reusable(one.text, stored.get(item), truncate=cut)) is not None:
                known[item] = found
        missing = {item: one for item, one in passages.items() if item not in known}
        if collection.weights is not None and model.digest:
            # Told by the digest alone, before weights are swapped for nothing.
            check_weights(collection, replace(collection.weights, digest=model.digest))
            if not missing:
                vectors = await self._stored_vectors(name, known) if return_vectors else {}
                return _filled(collection.weights, known, {}, vectors, 0)
        calibration = await self._calibration(collection.features)
        weights, answers, neurons = await self._read(model, missing, plan, record, truncate, collection, calibration)
        binariser = None
        if collection.features is not None and neurons is not None:
            moments = None if calibration is None else calibration[1]
            binariser = Binariser(collection.features, neurons, moments)
        embedded = await self._embedded(answers, binariser)
        fresh = {item: answer for item, answer in embedded.items() if isinstance(answer, EmbeddedText)}
        layout = None if binariser is None else binariser.layout
        put = partial(self._store.put, name, weights, fresh, layout, collection.create_time)
        num_stored = await self._storing.run(put) if fresh else 0
        vectors = _vectors(embedded) | await self._stored_vectors(name, known) if return_vectors else {}
        return _filled(weights, known, embedded, vectors, num_stored)

    async def measure(self, model: ModelName, name: str, samples: Samples, record: CallRecord) -> Calibrated:
        """Measures samples, by id, with `model` for the calibration `name`; those measured before are left out.

        Raises what `ModelHost.using` raises, NotFound, and PreconditionFailed where the calibration is finished, or
        other weights were measured.
        """
        calibration, before = await self._storing.run(self._calibrations.progress, name)
        plan = Plan(None, calibration.activations)
        passages, failures = _passages({item: one for item, one in samples.items() if item not in before}, plan)
        async with self._host.using(model) as held:
            record.swap_seconds = held.swap_seconds
            weights = weights_of(held)
            self._calibrations.check_open(calibration, weights)
            answers = await read_passages(self._host.engine, passages, plan, record)
        results: dict[str, int | EngineFailure] = dict.fromkeys(samples, 0)
        measured: dict[str, Measured] = {}
        for item, answer in answers.items():
            if isinstance(answer, EngineFailure):
                results[item] = answer
                continue
            assert answer.activations is not None
            results[item] = answer.num_pooled
            measured[item] = Measured(answer.activations, answer.num_pooled)
        if measured:
            await self._storing.run(self._calibrations.add, name, weights, measured, calibration.create_time)
        return Calibrated(weights, {**results, **failures})

    async def _read(
        self,
        model: ModelName,
        passages: Mapping[str, Passage],
        plan: Plan,
        record: CallRecord,
        cut: bool,
        collection: Collection | None = None,
        calibration: tuple[Calibration, BinnedMoments] | None = None,
    ) -> tuple[Weights, dict[str, Reading | EngineFailure], tuple[int, int] | None]:
        async with self._host.using(model) as held:
            record.swap_seconds = held.swap_seconds
            weights = weights_of(held)
            if collection is not None:
                check_weights(collection, weights)
            if calibration is not None:
                _check_calibration(calibration[0], weights)
            answers = await read_passages(self._host.engine, passages, plan, record, truncate=cut)
            return weights, answers, self._host.engine.model.neurons

    async def _calibration(self, features: FeatureSettings | None) -> tuple[Calibration, BinnedMoments] | None:
        if features is None or not features.calibration:
            return None
        return await self._storing.run(self._calibrations.load, features.calibration, features.calibration_version)

    async def _embedded(
        self, answers: Mapping[str, Reading | EngineFailure], binariser: Binariser | None
    ) -> dict[str, EmbeddedText | EngineFailure]:
        if binariser is None:
            return {item: _embedded_text(answer, None) for item, answer in answers.items()}
        made = binariser
        return await self._binarising.run(
            lambda: {item: _embedded_text(answer, made) for item, answer in answers.items()}
        )

    async def _stored_vectors(
        self, name: str, known: Mapping[str, TextRecord | EngineFailure]
    ) -> dict[str, NDArray[np.float32]]:
        ids = [item for item, found in known.items() if isinstance(found, TextRecord)]
        if not ids:
            return {}
        _, found, vectors = await self._storing.run(self._store.read, name, ids)
        return dict(zip(found, vectors, strict=True))


def weights_of(version: ModelVersion) -> Weights:
    """The held weights, as a collection remembers them."""
    return Weights(version.uri, version.digest, version.engine, version.dtype, version.chat_template_digest)


def _passages(samples: Samples, plan: Plan) -> tuple[dict[str, Passage], dict[str, EngineFailure]]:
    """What is to be read, and what cannot be."""
    made = {item: passage(messages, plan) for item, messages in samples.items()}
    return (
        {item: one for item, one in made.items() if isinstance(one, Passage)},
        {item: one for item, one in made.items() if isinstance(one, EngineFailure)},
    )


def _check_calibration(calibration: Calibration, weights: Weights) -> None:
    if calibration.weights is None or not calibration.weights.fits(weights, templated=True):
        advice = "calibrate these weights, and name a collection of its own"
        if calibration.weights is not None:
            advice = calibration.weights.advice(weights, templated=True, otherwise=advice)
        raise PreconditionFailed(
            "OTHER_WEIGHTS",
            f"calibration {calibration.name!r} is of {calibration.weights}, not of {weights}; {advice}",
        )


def _embedded_text(answer: Reading | EngineFailure, binariser: Binariser | None) -> EmbeddedText | EngineFailure:
    if isinstance(answer, EngineFailure):
        return answer
    assert answer.vector is not None
    features = None
    if binariser is not None and answer.activations is not None:
        features = binariser(answer.activations, answer.num_pooled)
    return EmbeddedText(answer.record, answer.vector, features)


def _vectors(answers: Mapping[str, EmbeddedText | EngineFailure]) -> dict[str, NDArray[np.float32]]:
    return {item: answer.vector for item, answer in answers.items() if isinstance(answer, EmbeddedText)}


def _filled(
    weights: Weights,
    known: Mapping[str, TextRecord | EngineFailure],
    answers: Mapping[str, EmbeddedText | EngineFailure],
    vectors: dict[str, NDArray[np.float32]],
    num_stored: int,
) -> Filled:
    computed = {item: answer.record if isinstance(answer, EmbeddedText) else answer for item, answer in answers.items()}
    return Filled(weights, {**known, **computed}, vectors, num_stored)
