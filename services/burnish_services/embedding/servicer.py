"""The gRPC face of the embedding service: checks, converts, calls, replies."""
# ruff: noqa: N802 - the proto names the methods

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import grpc.aio

from burnish.api.embedding.v1 import embedding_pb2, embedding_pb2_grpc
from burnish_services.embedding import convert, convert_features, convert_selection
from burnish_services.embedding.calibrations import CalibrationStore
from burnish_services.embedding.config import EmbeddingSettings
from burnish_services.embedding.fields import checked_name
from burnish_services.embedding.filling import Filler
from burnish_services.embedding.last_search import LastSearch
from burnish_services.embedding.neighbors import (
    Metric,
    NearestNeighbors,
    Propose,
    nearest_neighbors,
    propose_by_tiles,
)
from burnish_services.embedding.projecting import Method, check_size, project
from burnish_services.embedding.readings import read_store
from burnish_services.embedding.selecting import read_stored, rows_of, select
from burnish_services.embedding.storage import StoreUnavailable
from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.tables import Tables
from burnish_services.embedding.worker import Worker
from burnish_services.engine.base import Task
from burnish_services.engine.hosting import ModelHost
from burnish_services.runtime import wire
from burnish_services.runtime.calls import current_call
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.directory_lock import DirectoryLocked, patiently
from burnish_services.runtime.errors import InvalidRequest
from burnish_services.runtime.readings import Reading
from burnish_services.runtime.role import Role, RoleContext, RoleUnavailable

Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Implements burnish.api.embedding.v1.EmbeddingService on one ModelHost and one store.

    `storing` is the thread that the store is used from, `searching` the one for neighbours and selections: a search
    takes both memory and cores, so there is one at a time, and it must not hold up the store. Nor must it hold up
    `binarising`, which makes features of what is embedded meanwhile.
    """

    def __init__(
        self,
        host: ModelHost,
        store: VectorStore,
        calibrations: CalibrationStore,
        settings: EmbeddingSettings,
        *,
        storing: Worker,
        searching: Worker,
        binarising: Worker,
        propose: Propose,
        version: str,
        process: ServerSettings,
    ) -> None:
        self._host = host
        self._store = store
        self._calibrations = calibrations
        self._settings = settings
        self._storing = storing
        self._searching = searching
        self._propose = propose
        self._version = version
        self._process = process
        self._filler = Filler(host, store, calibrations, storing, binarising)
        self._one_search = asyncio.Semaphore(1)
        self._last_search = LastSearch()

    async def GetInfo(self, request: embedding_pb2.GetInfoRequest, context: Context) -> embedding_pb2.GetInfoResponse:
        """What runs here."""
        info = wire.server_info(
            version=self._version,
            engine=self._host.engine.name,
            held=self._host.version,
            max_items=self._settings.max_items,
            process=self._process,
            max_concurrent_requests=self._settings.max_concurrent_requests,
            max_tokens_in_flight=self._settings.max_tokens_in_flight,
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
        wanted = request.collection
        name, features = checked_name(wanted.name, "collection.name"), None
        source = convert_features.source(wanted.source)
        if wanted.HasField("features"):
            calibration = None
            if wanted.features.calibration:
                named = checked_name(wanted.features.calibration, "features.calibration")
                calibration = await self._storing.run(self._calibrations.get, named)
            features = convert_features.feature_settings(wanted.features, calibration)
        collection = await self._storing.run(self._store.create, name, source, features)
        return embedding_pb2.CreateCollectionResponse(collection=convert.collection_message(collection))

    async def GetCollection(
        self, request: embedding_pb2.GetCollectionRequest, context: Context
    ) -> embedding_pb2.GetCollectionResponse:
        """The collection as it is."""
        collection = await self._storing.run(self._store.get, checked_name(request.name, "name"))
        return embedding_pb2.GetCollectionResponse(collection=convert.collection_message(collection))

    async def ListCollections(
        self, request: embedding_pb2.ListCollectionsRequest, context: Context
    ) -> embedding_pb2.ListCollectionsResponse:
        """A page of collections; its token is the name of the last one on it."""
        size = convert.page_size(request.page_size)
        after = checked_name(request.page_token, "page_token") if request.page_token else ""
        found = await self._storing.run(self._store.page, size + 1, after)
        return embedding_pb2.ListCollectionsResponse(
            collections=[convert.collection_message(collection) for collection in found[:size]],
            next_page_token=found[size - 1].name if len(found) > size else "",
        )

    async def DeleteCollection(
        self, request: embedding_pb2.DeleteCollectionRequest, context: Context
    ) -> embedding_pb2.DeleteCollectionResponse:
        """Gone, if it was there."""
        await self._storing.run(self._store.delete, checked_name(request.name, "name"))
        return embedding_pb2.DeleteCollectionResponse()

    async def EmbedSamples(
        self, request: embedding_pb2.EmbedSamplesRequest, context: Context
    ) -> embedding_pb2.EmbedSamplesResponse:
        """Vectors of the batch, stored."""
        wire.check_batch(request.samples, (sample.id for sample in request.samples), self._settings.max_items)
        if request.collection:
            checked_name(request.collection)
        elif not request.return_vectors:
            raise InvalidRequest("NO_RESULT", "neither collection nor return_vectors is set; expected one or both")
        samples = {sample.id: wire.messages(sample.messages) for sample in request.samples}
        record = current_call()
        filled = await self._filler.fill(
            request.model,
            request.collection,
            samples,
            record,
            truncate=request.truncate,
            return_vectors=request.return_vectors,
        )
        results = filled.results
        return embedding_pb2.EmbedSamplesResponse(
            model=convert.weights_message(filled.weights),
            embeddings=[convert.embedding_message(item, results[item], filled.vectors.get(item)) for item in samples],
            num_stored=filled.num_stored,
            timing=wire.timing(record),
        )

    async def GetNeighborStatistics(
        self, request: embedding_pb2.GetNeighborStatisticsRequest, context: Context
    ) -> embedding_pb2.GetNeighborStatisticsResponse:
        """The neighbourhoods."""
        name, k = checked_name(request.collection), convert.num_neighbors(request.k)
        metric, recall = convert.METRICS.word(request.metric, Metric.COSINE), convert.recall(request.recall)
        wanted, queries = list(dict.fromkeys(request.sample_ids)), list(dict.fromkeys(request.query_ids))
        most = self._process.max_message_bytes
        convert.check_reply_fits(queries or wanted, wanted or queries, k, most)
        async with self._one_search:
            collection, ids, vectors = await self._storing.run(self._store.read, name, wanted or None)
            convert.check_in_set(queries, ids)
            convert.check_reply_fits(queries or ids, ids, k, most)
            how = (k, metric, request.exclude_duplicates, recall)

            def search(check: Callable[[], None]) -> NearestNeighbors:
                return nearest_neighbors(
                    vectors,
                    k,
                    metric=metric,
                    distinct=request.exclude_duplicates,
                    recall=recall,
                    propose=self._propose,
                    check=check,
                )

            def in_parts(check: Callable[[], None]) -> NearestNeighbors:
                return self._last_search.of(ids, vectors, how, lambda: search(check))

            if not queries:
                self._last_search = LastSearch()  # nobody fetches parts of the last one any more
            found = await self._searching.run_while_wanted(in_parts if queries else search)
            statistics = await self._searching.run(
                convert.statistics_messages, ids, found, queries or wanted or ids, metric
            )
        return embedding_pb2.GetNeighborStatisticsResponse(
            model=None if collection.weights is None else convert.weights_message(collection.weights),
            statistics=statistics,
            search=convert.search_message(found.search),
        )

    async def SelectCoverage(
        self, request: embedding_pb2.SelectCoverageRequest, context: Context
    ) -> embedding_pb2.SelectCoverageResponse:
        """A core set."""
        name = checked_name(request.collection)
        settings = convert_selection.selection_settings(request)
        candidates = convert_selection.candidates(request)
        async with self._one_search:
            stored = await self._storing.run(read_stored, self._store, name, candidates, settings)
            convert_selection.check_reply_fits(
                stored.ids, len(candidates.selected), settings, self._process.max_message_bytes
            )
            kind = settings.objective_for(stored.collection.layout)
            rows = await self._searching.run(rows_of, stored, candidates)
            outcome = await self._searching.run_while_wanted(lambda check: select(settings, kind, rows, check))
            return await self._searching.run(convert_selection.select_reply, stored.collection, rows, outcome)

    async def ProjectSamples(
        self, request: embedding_pb2.ProjectSamplesRequest, context: Context
    ) -> embedding_pb2.ProjectSamplesResponse:
        """Where samples lie on a plane."""
        name, method = checked_name(request.collection), convert.PROJECTIONS.word(request.method, Method.PCA)
        asked = len(set(request.sample_ids))
        check_size(method, asked or (await self._storing.run(self._store.get, name)).num_vectors)
        async with self._one_search:
            collection, ids, vectors = await self._storing.run(self._store.read, name, request.sample_ids or None)
            plane = await self._searching.run_while_wanted(lambda check: project(method, vectors, check))
        return embedding_pb2.ProjectSamplesResponse(
            model=None if collection.weights is None else convert.weights_message(collection.weights),
            sample_ids=ids,
            points=plane.points.astype("<f4").tobytes(),
            variance_shares=plane.shares,
            method=convert.PROJECTIONS.number(method),
        )

    async def CreateCalibration(
        self, request: embedding_pb2.CreateCalibrationRequest, context: Context
    ) -> embedding_pb2.CreateCalibrationResponse:
        """The calibration, new or as it was."""
        wanted = request.calibration
        name = checked_name(wanted.name, "calibration.name")
        activations = convert_features.activation_settings(wanted.activations)
        boundaries = convert_features.length_boundaries(wanted)
        calibration = await self._storing.run(self._calibrations.create, name, activations, boundaries)
        return embedding_pb2.CreateCalibrationResponse(calibration=convert.calibration_message(calibration))

    async def GetCalibration(
        self, request: embedding_pb2.GetCalibrationRequest, context: Context
    ) -> embedding_pb2.GetCalibrationResponse:
        """The calibration as it is."""
        name = checked_name(request.name, "name")
        calibration = await self._storing.run(self._calibrations.get, name)
        return embedding_pb2.GetCalibrationResponse(calibration=convert.calibration_message(calibration))

    async def ListCalibrations(
        self, request: embedding_pb2.ListCalibrationsRequest, context: Context
    ) -> embedding_pb2.ListCalibrationsResponse:
        """A page of calibrations; its token is the name of the last one on it."""
        size = convert.page_size(request.page_size)
        after = checked_name(request.page_token, "page_token") if request.page_token else ""
        found = await self._storing.run(self._calibrations.page, size + 1, after)
        return embedding_pb2.ListCalibrationsResponse(
            calibrations=[convert.calibration_message(calibration) for calibration in found[:size]],
            next_page_token=found[size - 1].name if len(found) > size else "",
        )

    async def DeleteCalibration(
        self, request: embedding_pb2.DeleteCalibrationRequest, context: Context
    ) -> embedding_pb2.DeleteCalibrationResponse:
        """Gone, if it was there."""
        await self._storing.run(self._calibrations.delete, checked_name(request.name, "name"))
        return embedding_pb2.DeleteCalibrationResponse()

    async def MeasureSamples(
        self, request: embedding_pb2.MeasureSamplesRequest, context: Context
    ) -> embedding_pb2.MeasureSamplesResponse:
        """The batch, measured."""
        wire.check_batch(request.samples, (sample.id for sample in request.samples), self._settings.max_items)
        name = checked_name(request.calibration, "calibration")
        samples = {sample.id: wire.messages(sample.messages) for sample in request.samples}
        record = current_call()
        measured = await self._filler.measure(request.model, name, samples, record)
        return embedding_pb2.MeasureSamplesResponse(
            model=convert.weights_message(measured.weights),
            measurements=[convert.measurement_message(item, measured.results[item]) for item in samples],
            timing=wire.timing(record),
        )

    async def FinishCalibration(
        self, request: embedding_pb2.FinishCalibrationRequest, context: Context
    ) -> embedding_pb2.FinishCalibrationResponse:
        """The calibration, with its version."""
        name = checked_name(request.name, "name")
        calibration = await self._storing.run(self._calibrations.finish, name)
        return embedding_pb2.FinishCalibrationResponse(calibration=convert.calibration_message(calibration))


class EmbeddingRole(Role):
    """The embedding service in a server process. Opens the store at once: that another server has its directory, or
    that its bucket cannot be reached, should be known before an engine is started."""

    name = "embedding"
    service_full_name: str = embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name

    def __init__(self, context: RoleContext, settings: EmbeddingSettings) -> None:
        self.max_concurrent_requests = settings.max_concurrent_requests
        self.max_tokens_in_flight = settings.max_tokens_in_flight
        propose = _propose(context.settings.engine, settings.search_device)
        place = settings.store_uri or context.state_directory(self.name)
        tables = partial(Tables, place, compact_after=settings.compact_after, cache_mib=settings.cache_mib)
        self._tables = patiently(tables, context.patience)
        self._storing, self._searching = Worker("vector-store"), Worker("neighbor-search")
        self._binarising = Worker("binarising")
        self._servicer = EmbeddingServicer(
            context.engines.host(Task.POOL),
            VectorStore(self._tables),
            CalibrationStore(self._tables),
            settings,
            storing=self._storing,
            searching=self._searching,
            binarising=self._binarising,
            propose=propose,
            version=context.version,
            process=context.settings,
        )

    def add_to_server(self, server: grpc.aio.Server) -> None:
        """See Role."""
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(self._servicer, server)

    def readings(self) -> Iterable[Reading]:
        """See Role."""
        return read_store(self._tables)

    async def close(self) -> None:
        """See Role."""
        await self._searching.close()
        await self._binarising.close()
        await self._storing.close()
        self._tables.close()


def _propose(engine: str, device: str) -> Propose:
    """What looks at all pairs. torch takes seconds to import, so that the fake engine does without."""
    if device == "cpu" or (device == "auto" and engine == "fake"):
        return propose_by_tiles
    from burnish_services.embedding.device_search import proposer

    return proposer(device)


def create(context: RoleContext) -> Role:
    """The role `embedding`, with its limits from the environment. Raises RoleUnavailable where another server has
    the vector store, or it cannot be reached."""
    try:
        return EmbeddingRole(context, EmbeddingSettings())
    except (DirectoryLocked, StoreUnavailable) as error:
        raise RoleUnavailable(str(error)) from error
