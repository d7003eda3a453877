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
        name = request.collection.name
        self._state.collections.setdefault(name, {})
        self._state.collection_settings.setdefault(name, request.collection)
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
        self._state.collection_settings.pop(request.name, None)
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
        reply = embedding_pb2.GetNeighborStatisticsResponse(
            model=self._state.versions.get(request.collection), search=embedding_pb2.NeighborSearch(recall=1.0)
        )
        vectors = np.stack([stored[name] for name in ids]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        for row, name in enumerate(ids):
            if request.query_ids and name not in request.query_ids:
                continue
            others = sorted((-cosines[row, column], ids[column]) for column in range(len(ids)) if column != row)
            nearest = others[: request.k or 2]
            mean = float(np.mean([-value for value, _ in nearest])) if nearest else 0.0
            entry = reply.statistics.add(sample_id=name, mean_cosine=mean)
            for value, other in nearest:
                entry.neighbors.add(sample_id=other, cosine=-value)
        return reply

    def SelectCoverage(
        self, request: embedding_pb2.SelectCoverageRequest, context: Context
    ) -> embedding_pb2.SelectCoverageResponse:
        # The order is drawn from a hash, so that it depends on nothing but the ids and the seed.
        stored = self._vectors(request.collection, context)
        before = set(request.selected_ids)
        ids = [one.sample_id for one in request.candidates] or sorted(stored)
        missing = [name for name in [*ids, *request.selected_ids] if name not in stored]
        if missing:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"not in {request.collection}: {', '.join(missing)}")
        worth = {name: float(draw(name, str(request.seed)).random()) for name in ids if name not in before}
        order = sorted(worth, key=lambda name: (-worth[name], name))
        selected, dropped = order[: request.budget], sorted(order[request.budget :])
        reply = embedding_pb2.SelectCoverageResponse(
            model=self._state.versions.get(request.collection),
            selected=[embedding_pb2.SelectedSample(sample_id=name, gain=worth[name]) for name in selected],
            curve=_curve([worth[name] for name in selected]),
            random_curves=[_curve(sorted(worth[name] for name in selected))] * request.num_random_curves,
            optimizer=request.optimizer or embedding_pb2.COVERAGE_OPTIMIZER_LAZY,
        )
        reply.statistics.num_candidates = len(worth)
        reply.statistics.num_features = DIMENSION
        if request.return_witnesses:
            reply.witnesses.extend(
                embedding_pb2.Witness(sample_id=name, nearest_id=selected[0], cosine=0.5) for name in dropped
            )
        return reply

    def ProjectSamples(
        self, request: embedding_pb2.ProjectSamplesRequest, context: Context
    ) -> embedding_pb2.ProjectSamplesResponse:
        stored = self._vectors(request.collection, context)
        ids = sorted(set(request.sample_ids) or stored)
        missing = [name for name in ids if name not in stored]
        if missing:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"not in {request.collection}: {', '.join(missing)}")
        points = np.array([stored[name][:2] for name in ids], "<f4")
        by_umap = request.method == embedding_pb2.PROJECTION_METHOD_UMAP
        return embedding_pb2.ProjectSamplesResponse(
            model=self._state.versions.get(request.collection),
            sample_ids=ids,
            points=points.tobytes(),
            variance_shares=(0.0, 0.0) if by_umap else (0.5, 0.25),
            method=request.method or embedding_pb2.PROJECTION_METHOD_PCA,
        )

    def CreateCalibration(
        self, request: embedding_pb2.CreateCalibrationRequest, context: Context
    ) -> embedding_pb2.CreateCalibrationResponse:
        wanted = request.calibration
        if wanted.name not in self._state.calibrations:
            made = embedding_pb2.Calibration(name=wanted.name, length_boundaries=wanted.length_boundaries)
            made.activations.CopyFrom(_resolved(wanted.activations))
            made.create_time.GetCurrentTime()
            self._state.calibrations[wanted.name] = made
        return embedding_pb2.CreateCalibrationResponse(calibration=self._calibration(wanted.name, context))

    def GetCalibration(
        self, request: embedding_pb2.GetCalibrationRequest, context: Context
    ) -> embedding_pb2.GetCalibrationResponse:
        return embedding_pb2.GetCalibrationResponse(calibration=self._calibration(request.name, context))

    def ListCalibrations(
        self, request: embedding_pb2.ListCalibrationsRequest, context: Context
    ) -> embedding_pb2.ListCalibrationsResponse:
        names = sorted(name for name in self._state.calibrations if name > request.page_token)
        reply = embedding_pb2.ListCalibrationsResponse(next_page_token=names[0] if len(names) > 1 else "")
        reply.calibrations.extend(self._state.calibrations[name] for name in names[:1])
        return reply

    def DeleteCalibration(
        self, request: embedding_pb2.DeleteCalibrationRequest, context: Context
    ) -> embedding_pb2.DeleteCalibrationResponse:
        self._state.calibrations.pop(request.name, None)
        return embedding_pb2.DeleteCalibrationResponse()

    def MeasureSamples(
        self, request: embedding_pb2.MeasureSamplesRequest, context: Context
    ) -> embedding_pb2.MeasureSamplesResponse:
        version = self._state.serve(request.model, [sample.id for sample in request.samples], context)
        calibration = self._calibration(request.calibration, context)
        measured = self._state.measured.setdefault(request.calibration, set())
        reply = embedding_pb2.MeasureSamplesResponse(model=version)
        for sample in request.samples:
            response = sample.messages[-1].content.split()
            entry = reply.measurements.add(sample_id=sample.id, num_tokens=len(response))
            if not response:
                entry.status.CopyFrom(failed("EMPTY_RESPONSE"))
            elif sample.id in measured:
                entry.num_tokens = 0
            else:
                measured.add(sample.id)
        calibration.num_samples = len(measured)
        calibration.model.CopyFrom(version)
        calibration.num_layers, calibration.num_neurons = 2, DIMENSION
        return reply

    def FinishCalibration(
        self, request: embedding_pb2.FinishCalibrationRequest, context: Context
    ) -> embedding_pb2.FinishCalibrationResponse:
        calibration = self._calibration(request.name, context)
        if calibration.num_samples < 2:
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, f"{calibration.num_samples} samples were measured")
        calibration.version = calibration.version or f"{calibration.num_samples:016x}"
        return embedding_pb2.FinishCalibrationResponse(calibration=calibration)

    def _calibration(self, name: str, context: Context) -> embedding_pb2.Calibration:
        if name not in self._state.calibrations:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no calibration {name!r}")
        return self._state.calibrations[name]

    def _vectors(self, name: str, context: Context) -> dict[str, NDArray[np.float32]]:
        if name not in self._state.collections:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no collection {name!r}")
        return self._state.collections[name]

    def _collection(self, name: str, context: Context) -> embedding_pb2.Collection:
        vectors, settings = self._vectors(name, context), self._state.collection_settings[name]
        collection = embedding_pb2.Collection(
            name=name,
            source=settings.source or embedding_pb2.TEXT_SOURCE_USER,
            model=self._state.versions.get(name),
            dimension=DIMENSION if vectors else 0,
            num_vectors=len(vectors),
        )
        if settings.HasField("features"):
            collection.features.CopyFrom(settings.features)
            collection.features.rule = settings.features.rule or embedding_pb2.FEATURE_RULE_STANDARDIZED_TOP_K
            collection.features.activations.CopyFrom(_resolved(settings.features.activations))
            collection.num_features = 2 * DIMENSION if vectors else 0
        collection.create_time.GetCurrentTime()
        return collection


def _resolved(given: embedding_pb2.ActivationSettings) -> embedding_pb2.ActivationSettings:
    return embedding_pb2.ActivationSettings(
        source=given.source or embedding_pb2.TEXT_SOURCE_RESPONSE,
        pooling=given.pooling or embedding_pb2.ACTIVATION_POOLING_MAX,
        max_tokens=given.max_tokens or 1024,
    )


def _curve(gains: list[float]) -> embedding_pb2.CoverageCurve:
    value = np.cumsum([0.0, *gains]).tolist()
    return embedding_pb2.CoverageCurve(
        num_selected=range(len(value)), value=value, num_features=[min(at, DIMENSION) for at in range(len(value))]
    )
