"""Embeds samples into a collection: what is stored already is not embedded again, and weights are never mixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.collection import Collection, EmbeddedText, TextRecord, Weights
from burnish_services.embedding.core import embed_texts, reusable
from burnish_services.embedding.store import VectorStore, check_weights
from burnish_services.embedding.worker import Worker
from burnish_services.engine.base import EngineFailure
from burnish_services.engine.hosting import ModelHost, ModelName, ModelVersion
from burnish_services.runtime.calls import CallRecord


@dataclass(frozen=True, slots=True)
class Filled:
    """What became of a batch. `vectors` has those that were asked for."""

    weights: Weights
    results: dict[str, TextRecord | EngineFailure]  # by id
    vectors: dict[str, NDArray[np.float32]]
    num_stored: int  # vectors newly stored


class Filler:
    """Fills collections of one store with vectors from one engine."""

    def __init__(self, host: ModelHost, store: VectorStore, worker: Worker) -> None:
        self._host = host
        self._store = store
        self._worker = worker

    async def fill(
        self,
        model: ModelName,
        name: str,
        texts: Mapping[str, str],
        record: CallRecord,
        *,
        truncate: bool,
        return_vectors: bool,
    ) -> Filled:
        """Embeds texts, by id, with `model` into the collection `name`; where that is empty, nothing is stored.

        Raises what `ModelHost.using` raises, NotFound, and PreconditionFailed where other weights filled the
        collection.
        """
        if not name:
            weights, answers = await self._embed(model, None, texts, record, truncate)
            return _filled(weights, {}, answers, _vectors(answers) if return_vectors else {}, 0)
        collection, stored = await self._worker.run(self._store.find, name, list(texts))
        known = {}
        for item, text in texts.items():
            if (found := reusable(text, stored.get(item), truncate=truncate)) is not None:
                known[item] = found
        missing = {item: text for item, text in texts.items() if item not in known}
        if collection.weights is not None and model.digest:
            # Told by the digest alone, before weights are swapped for nothing.
            check_weights(collection, replace(collection.weights, digest=model.digest))
            if not missing:
                vectors = await self._stored_vectors(name, known) if return_vectors else {}
                return _filled(collection.weights, known, {}, vectors, 0)
        weights, answers = await self._embed(model, collection, missing, record, truncate)
        fresh = {item: answer for item, answer in answers.items() if isinstance(answer, EmbeddedText)}
        num_stored = await self._worker.run(self._store.put, name, weights, fresh) if fresh else 0
        vectors = _vectors(answers) | await self._stored_vectors(name, known) if return_vectors else {}
        return _filled(weights, known, answers, vectors, num_stored)

    async def _embed(
        self, model: ModelName, collection: Collection | None, texts: Mapping[str, str], record: CallRecord, cut: bool
    ) -> tuple[Weights, dict[str, EmbeddedText | EngineFailure]]:
        async with self._host.using(model) as held:
            record.swap_seconds = held.swap_seconds
            weights = weights_of(held)
            if collection is not None:
                check_weights(collection, weights)
            return weights, await embed_texts(self._host.engine, texts, record, truncate=cut)

    async def _stored_vectors(
        self, name: str, known: Mapping[str, TextRecord | EngineFailure]
    ) -> dict[str, NDArray[np.float32]]:
        ids = [item for item, found in known.items() if isinstance(found, TextRecord)]
        if not ids:
            return {}
        _, found, vectors = await self._worker.run(self._store.read, name, ids)
        return dict(zip(found, vectors, strict=True))


def weights_of(version: ModelVersion) -> Weights:
    """The held weights, as a collection remembers them."""
    return Weights(version.uri, version.digest, version.engine, version.dtype, version.chat_template_digest)


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
