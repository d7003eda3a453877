"""The fake embedding service: vectors drawn from a hash, kept in a dictionary. Private."""

from __future__ import annotations

import grpc
import numpy as np
from numpy.typing import NDArray

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish.testing._state import Context, FakeState, draw, failed, refuse

# ruff: noqa: N802 - gRPC names the methods

DIMENSION = 8


class FakeEmbedding(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Vectors drawn from a hash, kept in a dictionary."""

    def __init__(self, state: FakeState) -> None:
        self._state = state

    def GetInfo(self, request: embedding_pb2.GetInfoRequest, context: Context) -> embedding_pb2.GetInfoResponse:
        return embedding_pb2.GetInfoResponse(info=self._state.info())

    def LoadModel(self, request: embedding_pb2.LoadModelRequest, context: Context) -> embedding_pb2.LoadModelResponse:
        return embedding_pb2.LoadModelResponse(model=self._state.version(request.model))

    def CreateCollection(
        self, request: embedding_pb2.CreateCollectionRequest, context: Context
    ) -> embedding_pb2.CreateCollectionResponse:
        self._state.collections.setdefault(request.collection.name, {})
        return embedding_pb2.CreateCollectionResponse(collection=self._collection(request.collection.name, context))

    def GetCollection(
        self, request: embedding_pb2.GetCollectionRequest, context: Context
    ) -> embedding_pb2.GetCollectionResponse:
        return embedding_pb2.GetCollectionResponse(collection=self._collection(request.name, context))

    def ListCollections(
        self, request: embedding_pb2.ListCollectionsRequest, context: Context
    ) -> embedding_pb2.ListCollectionsResponse:
        # One a page, whatever was asked for, so that callers' paging is put to use.
        names = sorted(name for name in self._state.collections if name > request.page_token)
        reply = embedding_pb2.ListCollectionsResponse(next_page_token=names[0] if len(names) > 1 else "")
        reply.collections.extend(self._collection(name, context) for name in names[:1])
        return reply

    def DeleteCollection(
        self, request: embedding_pb2.DeleteCollectionRequest, context: Context
    ) -> embedding_pb2.DeleteCollectionResponse:
        self._state.collections.pop(request.name, None)
        self._state.versions.pop(request.name, None)
        return embedding_pb2.DeleteCollectionResponse()

    def EmbedSamples(
        self, request: embedding_pb2.EmbedSamplesRequest, context: Context
    ) -> embedding_pb2.EmbedSamplesResponse:
        version = self._state.serve(request.model, [sample.id for sample in request.samples], context)
        stored = self._vectors(request.collection, context) if request.collection else {}
        reply = embedding_pb2.EmbedSamplesResponse(model=version)
        for sample in request.samples:
            user = "\n".join(m.content for m in sample.messages if m.role == common_pb2.ROLE_USER)
            embedding = reply.embeddings.add(sample_id=sample.id, num_tokens=len(user.split()))
            if not user.strip():
                embedding.status.CopyFrom(failed("EMPTY_PROMPT"))
                continue
            vector = draw(version.digest, user).normal(size=DIMENSION).astype("<f4")
            if request.return_vectors:
                embedding.vector = vector.tobytes()
            if request.collection and not np.array_equal(stored.get(sample.id, ()), vector):
                stored[sample.id] = vector
                reply.num_stored += 1
        if request.collection:
            self._state.versions[request.collection] = version
        return reply

    def GetNeighborStatistics(
        self, request: embedding_pb2.GetNeighborStatisticsRequest, context: Context
    ) -> embedding_pb2.GetNeighborStatisticsResponse:
        stored = self._vectors(request.collection, context)
        ids = list(dict.fromkeys(request.sample_ids)) or sorted(stored)
        missing = [name for name in ids if name not in stored]
        if missing:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"not in {request.collection}: {', '.join(missing)}")
        reply = embedding_pb2.GetNeighborStatisticsResponse(model=self._state.versions.get(request.collection))
        vectors = np.stack([stored[name] for name in ids]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        for row, name in enumerate(ids):
            others = sorted((-cosines[row, column], ids[column]) for column in range(len(ids)) if column != row)
            nearest = others[: request.k or 2]
            mean = float(np.mean([-value for value, _ in nearest])) if nearest else 0.0
            entry = reply.statistics.add(sample_id=name, mean_cosine=mean)
            for value, other in nearest:
                entry.neighbors.add(sample_id=other, cosine=-value)
        return reply

    def _vectors(self, name: str, context: Context) -> dict[str, NDArray[np.float32]]:
        if name not in self._state.collections:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no collection {name!r}")
        return self._state.collections[name]

    def _collection(self, name: str, context: Context) -> embedding_pb2.Collection:
        vectors = self._vectors(name, context)
        collection = embedding_pb2.Collection(
            name=name,
            source=embedding_pb2.TEXT_SOURCE_USER,
            model=self._state.versions.get(name),
            dimension=DIMENSION if vectors else 0,
            num_vectors=len(vectors),
        )
        collection.create_time.GetCurrentTime()
        return collection
