"""Between burnish.api.embedding.v1 and the service's own values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from burnish.api.common.v1 import common_pb2
from burnish.api.embedding.v1 import embedding_pb2
from burnish_services.embedding import convert_features
from burnish_services.embedding.calibrations import Calibration
from burnish_services.embedding.collection import Collection, TextRecord, Weights
from burnish_services.embedding.fields import Words, in_range
from burnish_services.embedding.neighbors import Metric, NearestNeighbors, Search
from burnish_services.embedding.projecting import Method
from burnish_services.engine.base import EngineFailure
from burnish_services.runtime import wire
from burnish_services.runtime.errors import InvalidRequest, item_status

METRICS = Words("metric", embedding_pb2.NeighborMetric.DESCRIPTOR, Metric)
PROJECTIONS = Words("method", embedding_pb2.ProjectionMethod.DESCRIPTOR, Method)
_DEFAULT_PAGE, _LARGEST_PAGE = 100, 1000
_DEFAULT_K, _LARGEST_K = 2, 100
_FIELD_BYTES = 16  # at most, of a statistic or a neighbour besides its id: tags, lengths and a double


def page_size(number: int) -> int:
    """Collections on a page. Raises InvalidRequest."""
    return in_range("page_size", number, _DEFAULT_PAGE, _LARGEST_PAGE)


def num_neighbors(number: int) -> int:
    """The k asked for. Raises InvalidRequest."""
    return in_range("k", number, _DEFAULT_K, _LARGEST_K)


def recall(number: float) -> float | None:
    """The share of true neighbours asked for; None leaves that to the search. Raises InvalidRequest."""
    if not 0 <= number <= 1:
        raise InvalidRequest(
            "BAD_RECALL", f"recall is {number}; expected it in (0, 1], or 0 for the default", field="recall"
        )
    return number or None


def weights_message(weights: Weights) -> common_pb2.ModelVersion:
    """The weights as a reply states them."""
    return common_pb2.ModelVersion(**asdict(weights))


def collection_message(collection: Collection) -> embedding_pb2.Collection:
    """The collection as a reply states it."""
    return embedding_pb2.Collection(
        name=collection.name,
        source=convert_features.SOURCES.number(collection.source),
        model=None if collection.weights is None else weights_message(collection.weights),
        dimension=collection.dimension,
        num_vectors=collection.num_vectors,
        create_time=wire.timestamp(collection.create_time.timestamp()),
        features=None if collection.features is None else convert_features.features_message(collection.features),
        num_features=0 if collection.layout is None else collection.layout.num_features,
    )


def calibration_message(calibration: Calibration) -> embedding_pb2.Calibration:
    """The calibration as a reply states it."""
    num_layers, num_neurons = calibration.neurons or (0, 0)
    return embedding_pb2.Calibration(
        name=calibration.name,
        activations=convert_features.activations_message(calibration.activations),
        length_boundaries=calibration.length_boundaries,
        model=None if calibration.weights is None else weights_message(calibration.weights),
        num_samples=calibration.num_samples,
        num_layers=num_layers,
        num_neurons=num_neurons,
        version=calibration.version,
        create_time=wire.timestamp(calibration.create_time.timestamp()),
    )


def embedding_message(
    sample_id: str, result: TextRecord | EngineFailure, vector: NDArray[np.float32] | None
) -> embedding_pb2.SampleEmbedding:
    """The reply's entry for one sample."""
    if isinstance(result, EngineFailure):
        return embedding_pb2.SampleEmbedding(sample_id=sample_id, status=item_status(result))
    return embedding_pb2.SampleEmbedding(
        sample_id=sample_id,
        status=common_pb2.ItemStatus(),
        vector=b"" if vector is None else vector.astype("<f4").tobytes(),
        num_tokens=result.num_tokens,
        truncated=result.truncated,
    )


def measurement_message(sample_id: str, result: int | EngineFailure) -> embedding_pb2.SampleMeasurement:
    """The reply's entry for one sample."""
    if isinstance(result, EngineFailure):
        return embedding_pb2.SampleMeasurement(sample_id=sample_id, status=item_status(result))
    return embedding_pb2.SampleMeasurement(sample_id=sample_id, status=common_pb2.ItemStatus(), num_tokens=result)


def check_in_set(queries: Sequence[str], ids: Sequence[str]) -> None:
    """Raises InvalidRequest where statistics are asked for of a sample that is not in the set."""
    outside = set(queries).difference(ids)
    if outside:
        name = next(query for query in queries if query in outside)
        raise InvalidRequest(
            "NOT_IN_SET",
            f"{len(outside)} of query_ids, the first {name!r}, are not among the {len(ids)} samples within which"
            " neighbours are sought; expected samples of that set",
            field="query_ids",
        )


def check_reply_fits(queries: Sequence[str], ids: Sequence[str], k: int, max_bytes: int) -> None:
    """Raises InvalidRequest where the statistics of `queries`, whose neighbours are sought among `ids`, would not fit a
    message, before any work is done."""
    longest = max((len(item.encode()) for item in ids), default=0)
    entry = longest + _FIELD_BYTES
    if len(queries) * (1 + min(k, max(len(ids) - 1, 0))) * entry > max_bytes:
        fitting = max_bytes // (len(queries) * entry) - 1
        advice = f"k of at most {fitting}, or " if fitting >= 1 else ""
        raise InvalidRequest(
            "REPLY_TOO_LARGE",
            f"k is {k}, and so many neighbours of {len(queries)} samples may take more than the {max_bytes >> 20} MiB"
            f" that fit a message; expected {advice}at most {max_bytes // ((1 + k) * entry)} samples at a time"
            " (query_ids), or a larger BURNISH_SERVER_MAX_MESSAGE_BYTES and client's max_message_bytes",
            field="k",
        )


def statistics_messages(
    ids: Sequence[str], found: NearestNeighbors, order: Sequence[str], metric: Metric
) -> list[embedding_pb2.NeighborStatistics]:
    """An entry for each id of `order`; `found` is in order of `ids`."""
    row_of = {item: row for row, item in enumerate(ids)}
    indices, values, means = found.indices.tolist(), found.values.tolist(), found.means.tolist()
    field = "cosine" if metric is Metric.COSINE else "distance"
    return [
        embedding_pb2.NeighborStatistics(
            sample_id=item,
            neighbors=[
                embedding_pb2.Neighbor(sample_id=ids[neighbor], **{field: value})
                for neighbor, value in zip(indices[row], values[row], strict=True)
            ],
            **{f"mean_{field}": means[row]},
        )
        for item, row in ((item, row_of[item]) for item in order)
    ]


def search_message(search: Search) -> embedding_pb2.NeighborSearch:
    """How neighbours were sought, as a reply states it."""
    return embedding_pb2.NeighborSearch(
        recall=search.recall,
        num_queries=search.num_queries,
        num_cells=search.num_cells,
        num_probed=search.num_probed,
    )
