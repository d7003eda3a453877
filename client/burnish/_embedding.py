"""`client.embedding`: collections of model-intrinsic vectors, and how close their samples are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from burnish import _convert, _convert_replies
from burnish._batches import BatchCall, Reply, sample_bytes, send_batches
from burnish._convert import Model
from burnish._loop import BackgroundLoop
from burnish._service import AsyncModelService, Service
from burnish._types import (
    Collection,
    EmbedBatch,
    ModelVersion,
    NeighborStatistics,
    Sample,
    SampleEmbedding,
    ServerInfo,
)
from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish.api.embedding.v1 import embedding_pb2_grpc

if TYPE_CHECKING:
    from burnish.api.embedding.v1.embedding_pb2_grpc import EmbeddingServiceAsyncStub

# ruff: noqa: ASYNC109 - every `timeout` is a gRPC deadline: seconds for each request that a call makes


class AsyncEmbedding(AsyncModelService):
    """The embedding service. `timeout` is in seconds for each request to the service; a long batch makes several."""

    @cached_property
    def _stub(self) -> EmbeddingServiceAsyncStub:
        return embedding_pb2_grpc.EmbeddingServiceStub(self._link.channel())

    async def info(self, *, timeout: float | None = None) -> ServerInfo:
        """What the server runs and its limits; quick, never loads a model."""
        reply = await self._link.call("GetInfo", self._stub.GetInfo, pb.GetInfoRequest(), timeout=timeout)
        info = _convert.info_from_proto(reply.info)
        self._limits = info.limits
        return info

    async def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:
        """Loads weights ahead of use, checks them and says which version is held; quick where they are held."""
        request = pb.LoadModelRequest(model=_convert.model_to_proto(model))
        reply = await self._link.call("LoadModel", self._stub.LoadModel, request, timeout=timeout)
        with self._link.reading("LoadModel"):
            return _convert.required_version(reply)

    async def create_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """Creates an empty collection, or returns the one of that name. `name`: 1 to 128 of a-z, 0-9, `-`, `_`."""
        request = pb.CreateCollectionRequest(collection=pb.Collection(name=name, source=pb.TEXT_SOURCE_USER))
        reply = await self._link.call("CreateCollection", self._stub.CreateCollection, request, timeout=timeout)
        return _convert_replies.collection_from_proto(reply.collection)

    async def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """The collection as it is now. Raises NotFound."""
        request = pb.GetCollectionRequest(name=name)
        reply = await self._link.call("GetCollection", self._stub.GetCollection, request, timeout=timeout)
        return _convert_replies.collection_from_proto(reply.collection)

    async def list_collections(self, *, timeout: float | None = None) -> tuple[Collection, ...]:
        """All collections, in order of name."""
        found: list[Collection] = []
        token = ""
        while True:
            request = pb.ListCollectionsRequest(page_size=1000, page_token=token)
            reply = await self._link.call("ListCollections", self._stub.ListCollections, request, timeout=timeout)
            found += (_convert_replies.collection_from_proto(c) for c in reply.collections)
            token = reply.next_page_token
            if not token:
                return tuple(found)

    async def delete_collection(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a collection and its vectors; one that is not there is no error."""
        request = pb.DeleteCollectionRequest(name=name)
        await self._link.call("DeleteCollection", self._stub.DeleteCollection, request, timeout=timeout)

    async def embed(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        collection: str = "",
        return_vectors: bool = False,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> EmbedBatch:
        """Embeds the user text of each sample with `model` and stores the vectors in `collection`, durably.

        Any number of samples; ids unique. What is stored already under the same id and text is not embedded again.
        Without a collection nothing is stored, which needs `return_vectors`. `truncate` cuts texts longer than the
        context, which else fail as items. Raises UsageError and ServiceError.
        """
        num_stored = 0

        async def send(part: Sequence[Sample]) -> Reply[SampleEmbedding]:
            nonlocal num_stored
            request = pb.EmbedSamplesRequest(
                model=_convert.model_to_proto(model),
                collection=collection,
                samples=[_convert.sample_to_proto(sample) for sample in part],
                return_vectors=return_vectors,
                truncate=truncate,
            )
            reply = await self._link.call("EmbedSamples", self._stub.EmbedSamples, request, timeout=timeout)
            num_stored += reply.num_stored
            with self._link.reading("EmbedSamples"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_replies.embedding_from_proto(embedding) for embedding in reply.embeddings),
                    _convert.timing_from_proto(reply.timing),
                )

        call: BatchCall[Sample, SampleEmbedding] = BatchCall(
            name="embed",
            item_id=lambda sample: sample.id,
            size=sample_bytes,
            send=send,
            result_id=lambda embedding: embedding.sample_id,
            refuse=SampleEmbedding,
            version=lambda: self._version_for(model),
        )
        reply = await send_batches(self._link, call, samples, self._allowed)
        return EmbedBatch(reply.model, reply.results, num_stored, reply.timing)

    async def neighbor_statistics(
        self,
        collection: str,
        sample_ids: Sequence[str] = (),
        *,
        k: int = 2,
        timeout: float | None = None,
    ) -> tuple[NeighborStatistics, ...]:
        """Mean cosine similarity of each sample to its `k` (1 to 100) nearest neighbours within `sample_ids`.

        Empty ids mean the whole collection. One entry per distinct id, in the order given. Raises NotFound for the
        collection, PreconditionFailed for ids that are not in it.
        """
        with _convert.refused_as_usage(f"neighbor_statistics of {collection!r}"):
            request = pb.GetNeighborStatisticsRequest(collection=collection, sample_ids=sample_ids, k=k)
        reply = await self._link.call(
            "GetNeighborStatistics", self._stub.GetNeighborStatistics, request, timeout=timeout
        )
        return tuple(_convert_replies.neighbors_from_proto(statistics) for statistics in reply.statistics)


class Embedding(Service):
    """The embedding service, synchronous; see AsyncEmbedding."""

    def __init__(self, loop: BackgroundLoop, twin: AsyncEmbedding) -> None:
        super().__init__(loop)
        self._twin = twin

    @property
    def address(self) -> str:
        """See AsyncEmbedding.address."""
        return self._twin.address

    def info(self, *, timeout: float | None = None) -> ServerInfo:
        """See AsyncEmbedding.info."""
        return self._loop.run(self._twin.info(timeout=timeout))

    def load_model(self, model: Model, *, timeout: float | None = None) -> ModelVersion:
        """See AsyncEmbedding.load_model."""
        return self._loop.run(self._twin.load_model(model, timeout=timeout))

    def create_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """See AsyncEmbedding.create_collection."""
        return self._loop.run(self._twin.create_collection(name, timeout=timeout))

    def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """See AsyncEmbedding.get_collection."""
        return self._loop.run(self._twin.get_collection(name, timeout=timeout))

    def list_collections(self, *, timeout: float | None = None) -> tuple[Collection, ...]:
        """See AsyncEmbedding.list_collections."""
        return self._loop.run(self._twin.list_collections(timeout=timeout))

    def delete_collection(self, name: str, *, timeout: float | None = None) -> None:
        """See AsyncEmbedding.delete_collection."""
        self._loop.run(self._twin.delete_collection(name, timeout=timeout))

    def embed(
        self,
        samples: Sequence[Sample],
        *,
        model: Model | None = None,
        collection: str = "",
        return_vectors: bool = False,
        truncate: bool = False,
        timeout: float | None = None,
    ) -> EmbedBatch:
        """See AsyncEmbedding.embed."""
        return self._loop.run(
            self._twin.embed(
                samples,
                model=model,
                collection=collection,
                return_vectors=return_vectors,
                truncate=truncate,
                timeout=timeout,
            )
        )

    def neighbor_statistics(
        self,
        collection: str,
        sample_ids: Sequence[str] = (),
        *,
        k: int = 2,
        timeout: float | None = None,
    ) -> tuple[NeighborStatistics, ...]:
        """See AsyncEmbedding.neighbor_statistics."""
        return self._loop.run(self._twin.neighbor_statistics(collection, sample_ids, k=k, timeout=timeout))
