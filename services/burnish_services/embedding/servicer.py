"""The gRPC face of the embedding service: checks, converts, calls, replies."""
# ruff: noqa: N802 - the proto names the methods

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish_services.embedding import convert
from burnish_services.embedding.config import EmbeddingSettings
from burnish_services.embedding.core import user_text
from burnish_services.embedding.filling import Filler
from burnish_services.embedding.lock import DirectoryLocked
from burnish_services.embedding.neighbors import nearest_neighbors
from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.worker import Worker
from burnish_services.engine.base import EngineFailure, Task
from burnish_services.engine.hosting import ModelHost
from burnish_services.runtime import wire
from burnish_services.runtime.calls import current_call
from burnish_services.runtime.errors import InvalidRequest
from burnish_services.runtime.role import Role, RoleContext, RoleUnavailable

Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Implements burnish.api.embedding.v1.EmbeddingService on one ModelHost and one VectorStore.

    `storing` is the thread that the store is used from, `searching` the one for neighbours: a search takes both
    memory and cores, so there is one at a time, and it must not hold up the store.
    """

    def __init__(
        self,
        host: ModelHost,
        store: VectorStore,
        settings: EmbeddingSettings,
        *,
        storing: Worker,
        searching: Worker,
        version: str,
        max_message_bytes: int,
    ) -> None:
        self._host = host
        self._store = store
        self._settings = settings
        self._storing = storing
        self._searching = searching
        self._version = version
        self._max_message_bytes = max_message_bytes
        self._filler = Filler(host, store, storing)
        self._one_search = asyncio.Semaphore(1)

    async def GetInfo(self, request: embedding_pb2.GetInfoRequest, context: Context) -> embedding_pb2.GetInfoResponse:
        """What runs here."""
        info = wire.server_info(
            version=self._version,
            engine=self._host.engine.name,
            held=self._host.version,
            max_items=self._settings.max_items,
            max_concurrent_requests=self._settings.max_concurrent_requests,
        )
        return embedding_pb2.GetInfoResponse(info=info)

    async def LoadModel(
        self, request: embedding_pb2.LoadModelRequest, context: Context
    ) -> embedding_pb2.LoadModelResponse:
        """Has the weights loaded and says which they are."""
        wire.require_uri(request.model)
        async with self._host.using(request.model) as held:
            record = current_call()
            record.swap_seconds = held.swap_seconds
        return embedding_pb2.LoadModelResponse(model=wire.model_version(held), timing=wire.timing(record))

    async def CreateCollection(
        self, request: embedding_pb2.CreateCollectionRequest, context: Context
    ) -> embedding_pb2.CreateCollectionResponse:
        """The collection, new or as it was."""
        name = convert.collection_name(request.collection.name)
        source = convert.source(request.collection.source)
        collection = await self._storing.run(self._store.create, name, source)
        return embedding_pb2.CreateCollectionResponse(collection=convert.collection_message(collection))

    async def GetCollection(
        self, request: embedding_pb2.GetCollectionRequest, context: Context
    ) -> embedding_pb2.GetCollectionResponse:
        """The collection as it is."""
        collection = await self._storing.run(self._store.get, convert.collection_name(request.name))
        return embedding_pb2.GetCollectionResponse(collection=convert.collection_message(collection))

    async def ListCollections(
        self, request: embedding_pb2.ListCollectionsRequest, context: Context
    ) -> embedding_pb2.ListCollectionsResponse:
        """A page of collections; its token is the name of the last one on it."""
        size = convert.page_size(request.page_size)
        after = convert.collection_name(request.page_token) if request.page_token else ""
        found = await self._storing.run(self._store.page, size + 1, after)
        return embedding_pb2.ListCollectionsResponse(
            collections=[convert.collection_message(collection) for collection in found[:size]],
            next_page_token=found[size - 1].name if len(found) > size else "",
        )

    async def DeleteCollection(
        self, request: embedding_pb2.DeleteCollectionRequest, context: Context
    ) -> embedding_pb2.DeleteCollectionResponse:
        """Gone, if it was there."""
        await self._storing.run(self._store.delete, convert.collection_name(request.name))
        return embedding_pb2.DeleteCollectionResponse()

    async def EmbedSamples(
        self, request: embedding_pb2.EmbedSamplesRequest, context: Context
    ) -> embedding_pb2.EmbedSamplesResponse:
        """Vectors of the batch, stored."""
        wire.check_batch([sample.id for sample in request.samples], self._settings.max_items)
        if request.collection:
            convert.collection_name(request.collection)
        elif not request.return_vectors:
            raise InvalidRequest("NO_RESULT", "neither collection nor return_vectors is set; expected one or both")
        texts = {sample.id: user_text(wire.chat_messages(sample)) for sample in request.samples}
        record = current_call()
        filled = await self._filler.fill(
            request.model,
            request.collection,
            {item: text for item, text in texts.items() if isinstance(text, str)},
            record,
            truncate=request.truncate,
            return_vectors=request.return_vectors,
        )
        results = {item: text for item, text in texts.items() if isinstance(text, EngineFailure)} | filled.results
        record.failed_items = sum(isinstance(result, EngineFailure) for result in results.values())
        return embedding_pb2.EmbedSamplesResponse(
            model=convert.weights_message(filled.weights),
            embeddings=[convert.embedding_message(item, results[item], filled.vectors.get(item)) for item in texts],
            num_stored=filled.num_stored,
            timing=wire.timing(record),
        )

    async def GetNeighborStatistics(
        self, request: embedding_pb2.GetNeighborStatisticsRequest, context: Context
    ) -> embedding_pb2.GetNeighborStatisticsResponse:
        """The neighbourhoods, exactly."""
        name, k = convert.collection_name(request.collection), convert.num_neighbors(request.k)
        wanted = list(dict.fromkeys(request.sample_ids))
        convert.check_reply_fits(wanted, k, self._max_message_bytes)
        async with self._one_search:
            collection, ids, vectors = await self._storing.run(self._store.read, name, wanted or None)
            convert.check_reply_fits(ids, k, self._max_message_bytes)
            found = await self._searching.run_while_wanted(lambda check: nearest_neighbors(vectors, k, check=check))
            statistics = await self._searching.run(convert.statistics_messages, ids, found, wanted or ids)
        return embedding_pb2.GetNeighborStatisticsResponse(
            model=None if collection.weights is None else convert.weights_message(collection.weights),
            statistics=statistics,
        )


class EmbeddingRole(Role):
    """The embedding service in a server process. Takes the store's directory at once: that another server has it
    should be known before an engine is started."""

    name = "embedding"
    service_full_name: str = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

    def __init__(self, context: RoleContext, settings: EmbeddingSettings) -> None:
        self.max_concurrent_requests = settings.max_concurrent_requests
        self._store = VectorStore(context.state_directory(self.name), compact_after=settings.compact_after)
        self._storing, self._searching = Worker("vector-store"), Worker("neighbor-search")
        self._servicer = EmbeddingServicer(
            context.engines.host(Task.POOL),
            self._store,
            settings,
            storing=self._storing,
            searching=self._searching,
            version=context.version,
            max_message_bytes=context.max_message_bytes,
        )

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """See Role."""
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(self._servicer, server)

    async def close(self) -> None:
        """See Role."""
        await self._searching.close()
        await self._storing.close()
        self._store.close()


def create(context: RoleContext) -> Role:
    """The role `embedding`, with its limits from the environment. Raises RoleUnavailable where another server has
    the vector store."""
    try:
        return EmbeddingRole(context, EmbeddingSettings())
    except DirectoryLocked as error:
        raise RoleUnavailable(str(error)) from error
