"""`client.embedding`: collections of model-intrinsic vectors, and how close their samples are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from burnish import _convert, _convert_coverage, _convert_replies
from burnish._batches import BatchCall, Reply, sample_bytes, send_batches
from burnish._convert import Model
from burnish._coverage_types import (
    ActivationSettings,
    Calibration,
    CoverageCandidate,
    CoverageSelection,
    CoverageSettings,
    FeatureSettings,
    MeasureBatch,
    Projection,
    ProjectionMethod,
    SampleMeasurement,
)
from burnish._loop import BackgroundLoop
from burnish._service import AsyncModelService, Service
from burnish._types import (
    Collection,
    EmbedBatch,
    ModelVersion,
    NeighborBatch,
    NeighborMetric,
    Sample,
    SampleEmbedding,
    ServerInfo,
    TokenSpan,
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

    async def create_collection(
        self,
        name: str,
        *,
        source: TokenSpan = TokenSpan.USER,
        features: FeatureSettings | None = None,
        timeout: float | None = None,
    ) -> Collection:
        """Creates an empty collection, or returns the one of that name. `name`: 1 to 128 of a-z, 0-9, `-`, `_`.

        `source` is what vectors are means over: the user's text alone, or the responses or all of the conversation.
        With `features` each sample's active neurons are stored too. Raises AlreadyExists for other settings, and for
        the calibration that they name NotFound, or PreconditionFailed where it is not finished.
        """
        with _convert.refused_as_usage(f"create_collection {name!r}"):
            collection = pb.Collection(name=name, source=_convert_coverage.SOURCES.number(source))
            if features is not None:
                collection.features.CopyFrom(_convert_coverage.features_to_proto(features))
        request = pb.CreateCollectionRequest(collection=collection)
        reply = await self._link.call("CreateCollection", self._stub.CreateCollection, request, timeout=timeout)
        return self._collection("CreateCollection", reply.collection)

    async def get_collection(self, name: str, *, timeout: float | None = None) -> Collection:
        """The collection as it is now. Raises NotFound."""
        request = pb.GetCollectionRequest(name=name)
        reply = await self._link.call("GetCollection", self._stub.GetCollection, request, timeout=timeout)
        return self._collection("GetCollection", reply.collection)

    async def list_collections(self, *, timeout: float | None = None) -> tuple[Collection, ...]:
        """All collections, in order of name."""
        found: list[Collection] = []
        token = ""
        while True:
            request = pb.ListCollectionsRequest(page_size=1000, page_token=token)
            reply = await self._link.call("ListCollections", self._stub.ListCollections, request, timeout=timeout)
            found += (self._collection("ListCollections", one) for one in reply.collections)
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
        """Embeds each sample with `model` and stores the vectors in `collection`, durably.

        A vector is a mean over the user text, or over what the collection was created for (`source`): the response,
        or the whole conversation. Any number of samples; ids unique. What is stored already under the same id and text
        is not embedded again. Without a collection nothing is stored, which needs `return_vectors`. `truncate` cuts
        texts longer than the context, which else fail as items. Raises UsageError and ServiceError.
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
        metric: NeighborMetric = NeighborMetric.COSINE,
        exclude_duplicates: bool = False,
        recall: float | None = None,
        query_ids: Sequence[str] = (),
        timeout: float | None = None,
    ) -> NeighborBatch:
        """Mean cosine similarity, or distance, of each sample to its `k` (1 to 100) nearest neighbours within
        `sample_ids`; without exact duplicates where asked.

        Empty ids mean the whole collection. One entry per distinct id, in the order given. `recall` in (0, 1] is the
        share of true neighbours that must be found: 1 compares all with all, None is that up to 100,000 different
        vectors and 0.95 beyond. `query_ids` has only these told of, so that what does not fit one reply can be had in
        several. Raises NotFound for the collection, PreconditionFailed for ids that are not in it, InvalidRequest for
        `query_ids` that are not in the set and for what would not fit a reply.
        """
        with _convert.refused_as_usage(f"neighbor_statistics of {collection!r}"):
            request = pb.GetNeighborStatisticsRequest(
                collection=collection,
                sample_ids=sample_ids,
                k=k,
                metric=_convert_coverage.METRICS.number(metric),
                exclude_duplicates=exclude_duplicates,
                recall=recall or 0.0,
                query_ids=query_ids,
            )
        reply = await self._link.call(
            "GetNeighborStatistics", self._stub.GetNeighborStatistics, request, timeout=timeout
        )
        with self._link.reading("GetNeighborStatistics"):
            return _convert_replies.neighborhoods_from_proto(reply)

    async def select(
        self,
        collection: str,
        budget: int,
        candidates: Sequence[CoverageCandidate] = (),
        *,
        settings: CoverageSettings = CoverageSettings(),
        selected_ids: Sequence[str] = (),
        return_witnesses: bool = False,
        num_random_curves: int = 0,
        timeout: float | None = None,
    ) -> CoverageSelection:
        """Up to `budget` samples that together cover what all `candidates` have, in order: every beginning of the order
        is a selection for that budget. Without candidates: of the whole collection.

        `selected_ids` count as selected before. `return_witnesses`: who stands for each sample that was not selected.
        `num_random_curves`: what as many random ones cover, for comparison. Raises NotFound for the collection,
        PreconditionFailed for ids that are not in it and for features that it does not have.
        """
        with _convert.refused_as_usage(f"select from {collection!r}"):
            request = _convert_coverage.select_to_proto(
                collection,
                budget,
                candidates,
                settings,
                selected_ids,
                return_witnesses=return_witnesses,
                num_random_curves=num_random_curves,
            )
        reply = await self._link.call("SelectCoverage", self._stub.SelectCoverage, request, timeout=timeout)
        with self._link.reading("SelectCoverage"):
            return _convert_coverage.selection_from_proto(reply)

    async def project(
        self,
        collection: str,
        sample_ids: Sequence[str] = (),
        *,
        method: ProjectionMethod = ProjectionMethod.PCA,
        timeout: float | None = None,
    ) -> Projection:
        """Where samples lie on a plane: that on which their vectors differ most (PCA), or one on which those near to
        each other stay so (UMAP, at most 100,000). Empty ids mean the whole collection. Raises NotFound for the
        collection, PreconditionFailed for ids that are not in it and where the server has no UMAP."""
        with _convert.refused_as_usage(f"project {collection!r}"):
            request = _convert_coverage.projection_to_proto(collection, sample_ids, method)
        reply = await self._link.call("ProjectSamples", self._stub.ProjectSamples, request, timeout=timeout)
        with self._link.reading("ProjectSamples"):
            return _convert_coverage.projection_from_proto(reply)

    async def create_calibration(
        self,
        name: str,
        *,
        activations: ActivationSettings = ActivationSettings(),
        length_boundaries: Sequence[int] = (),
        timeout: float | None = None,
    ) -> Calibration:
        """Creates an empty calibration, or returns the one of that name; then `measure`, then `finish_calibration`.
        Raises AlreadyExists for other settings."""
        with _convert.refused_as_usage(f"create_calibration {name!r}"):
            calibration = pb.Calibration(
                name=name,
                activations=_convert_coverage.activations_to_proto(activations),
                length_boundaries=length_boundaries,
            )
        request = pb.CreateCalibrationRequest(calibration=calibration)
        reply = await self._link.call("CreateCalibration", self._stub.CreateCalibration, request, timeout=timeout)
        return self._calibration("CreateCalibration", reply.calibration)

    async def get_calibration(self, name: str, *, timeout: float | None = None) -> Calibration:
        """The calibration as it is now. Raises NotFound."""
        request = pb.GetCalibrationRequest(name=name)
        reply = await self._link.call("GetCalibration", self._stub.GetCalibration, request, timeout=timeout)
        return self._calibration("GetCalibration", reply.calibration)

    async def list_calibrations(self, *, timeout: float | None = None) -> tuple[Calibration, ...]:
        """All calibrations, in order of name."""
        found: list[Calibration] = []
        token = ""
        while True:
            request = pb.ListCalibrationsRequest(page_size=1000, page_token=token)
            reply = await self._link.call("ListCalibrations", self._stub.ListCalibrations, request, timeout=timeout)
            found += (self._calibration("ListCalibrations", one) for one in reply.calibrations)
            token = reply.next_page_token
            if not token:
                return tuple(found)

    async def delete_calibration(self, name: str, *, timeout: float | None = None) -> None:
        """Deletes a calibration; one that is not there is no error."""
        request = pb.DeleteCalibrationRequest(name=name)
        await self._link.call("DeleteCalibration", self._stub.DeleteCalibration, request, timeout=timeout)

    async def measure(
        self,
        samples: Sequence[Sample],
        calibration: str,
        *,
        model: Model | None = None,
        timeout: float | None = None,
    ) -> MeasureBatch:
        """Measures samples with `model` for a calibration that is not finished, durably. Any number of samples; ids
        unique. Those measured before are not measured again. Raises UsageError and ServiceError."""

        async def send(part: Sequence[Sample]) -> Reply[SampleMeasurement]:
            request = pb.MeasureSamplesRequest(
                model=_convert.model_to_proto(model),
                calibration=calibration,
                samples=[_convert.sample_to_proto(sample) for sample in part],
            )
            reply = await self._link.call("MeasureSamples", self._stub.MeasureSamples, request, timeout=timeout)
            with self._link.reading("MeasureSamples"):
                return Reply(
                    _convert.required_version(reply),
                    tuple(_convert_coverage.measurement_from_proto(one) for one in reply.measurements),
                    _convert.timing_from_proto(reply.timing),
                )

        call: BatchCall[Sample, SampleMeasurement] = BatchCall(
            name="measure",
            item_id=lambda sample: sample.id,
            size=sample_bytes,
            send=send,
            result_id=lambda measurement: measurement.sample_id,
            refuse=SampleMeasurement,
            version=lambda: self._version_for(model),
        )
        reply = await send_batches(self._link, call, samples, self._allowed)
        return MeasureBatch(reply.model, reply.results, reply.timing)

    async def finish_calibration(self, name: str, *, timeout: float | None = None) -> Calibration:
        """Ends the measuring, and returns the calibration with its version. Raises NotFound, and PreconditionFailed
        where too few samples were measured."""
        request = pb.FinishCalibrationRequest(name=name)
        reply = await self._link.call("FinishCalibration", self._stub.FinishCalibration, request, timeout=timeout)
        return self._calibration("FinishCalibration", reply.calibration)

    def _collection(self, call: str, collection: pb.Collection) -> Collection:
        with self._link.reading(call):
            return _convert_replies.collection_from_proto(collection)

    def _calibration(self, call: str, calibration: pb.Calibration) -> Calibration:
        with self._link.reading(call):
            return _convert_coverage.calibration_from_proto(calibration)


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

    def create_collection(
        self,
        name: str,
        *,
        source: TokenSpan = TokenSpan.USER,
        features: FeatureSettings | None = None,
        timeout: float | None = None,
    ) -> Collection:
        """See AsyncEmbedding.create_collection."""
        return self._loop.run(self._twin.create_collection(name, source=source, features=features, timeout=timeout))

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
        metric: NeighborMetric = NeighborMetric.COSINE,
        exclude_duplicates: bool = False,
        recall: float | None = None,
        query_ids: Sequence[str] = (),
        timeout: float | None = None,
    ) -> NeighborBatch:
        """See AsyncEmbedding.neighbor_statistics."""
        return self._loop.run(
            self._twin.neighbor_statistics(
                collection,
                sample_ids,
                k=k,
                metric=metric,
                exclude_duplicates=exclude_duplicates,
                recall=recall,
                query_ids=query_ids,
                timeout=timeout,
            )
        )

    def select(
        self,
        collection: str,
        budget: int,
        candidates: Sequence[CoverageCandidate] = (),
        *,
        settings: CoverageSettings = CoverageSettings(),
        selected_ids: Sequence[str] = (),
        return_witnesses: bool = False,
        num_random_curves: int = 0,
        timeout: float | None = None,
    ) -> CoverageSelection:
        """See AsyncEmbedding.select."""
        return self._loop.run(
            self._twin.select(
                collection,
                budget,
                candidates,
                settings=settings,
                selected_ids=selected_ids,
                return_witnesses=return_witnesses,
                num_random_curves=num_random_curves,
                timeout=timeout,
            )
        )

    def project(
        self,
        collection: str,
        sample_ids: Sequence[str] = (),
        *,
        method: ProjectionMethod = ProjectionMethod.PCA,
        timeout: float | None = None,
    ) -> Projection:
        """See AsyncEmbedding.project."""
        return self._loop.run(self._twin.project(collection, sample_ids, method=method, timeout=timeout))

    def create_calibration(
        self,
        name: str,
        *,
        activations: ActivationSettings = ActivationSettings(),
        length_boundaries: Sequence[int] = (),
        timeout: float | None = None,
    ) -> Calibration:
        """See AsyncEmbedding.create_calibration."""
        return self._loop.run(
            self._twin.create_calibration(
                name, activations=activations, length_boundaries=length_boundaries, timeout=timeout
            )
        )

    def get_calibration(self, name: str, *, timeout: float | None = None) -> Calibration:
        """See AsyncEmbedding.get_calibration."""
        return self._loop.run(self._twin.get_calibration(name, timeout=timeout))

    def list_calibrations(self, *, timeout: float | None = None) -> tuple[Calibration, ...]:
        """See AsyncEmbedding.list_calibrations."""
        return self._loop.run(self._twin.list_calibrations(timeout=timeout))

    def delete_calibration(self, name: str, *, timeout: float | None = None) -> None:
        """See AsyncEmbedding.delete_calibration."""
        self._loop.run(self._twin.delete_calibration(name, timeout=timeout))

    def measure(
        self,
        samples: Sequence[Sample],
        calibration: str,
        *,
        model: Model | None = None,
        timeout: float | None = None,
    ) -> MeasureBatch:
        """See AsyncEmbedding.measure."""
        return self._loop.run(self._twin.measure(samples, calibration, model=model, timeout=timeout))

    def finish_calibration(self, name: str, *, timeout: float | None = None) -> Calibration:
        """See AsyncEmbedding.finish_calibration."""
        return self._loop.run(self._twin.finish_calibration(name, timeout=timeout))
