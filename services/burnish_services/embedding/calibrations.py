"""Calibrations: what is usual for each neuron of a model, measured on a part of the samples, in tables of their own.

A calibration is a table NAME.calibration. While it is measured there is a row for each batch, with the ids that it is
of, so that a batch sent again counts once; finishing merges the rows into one, in a single commit, and gives it a
version. Blocking, and not safe for threads, like `tables.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from burnish_services.embedding.collection import Weights
from burnish_services.embedding.coverage.moments import BinnedMoments, Moments
from burnish_services.embedding.layout import activation_settings
from burnish_services.embedding.settings import ActivationSettings
from burnish_services.embedding.tables import PLACE, Tables, check_format, first_readable
from burnish_services.runtime.errors import AlreadyExists, NotFound, PreconditionFailed

SUFFIX = ".calibration"
_FORMAT = 1
_METADATA_KEY = b"burnish.calibration"
_ARRAYS = ("mean", "m2", "low", "high")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is usual for a model's neurons. `version` is set once it is finished, and names its numbers."""

    name: str
    activations: ActivationSettings
    length_boundaries: tuple[int, ...]  # tokens; samples below, between and above are measured apart
    create_time: datetime  # UTC
    weights: Weights | None = None  # None while nothing is measured
    neurons: tuple[int, int] | None = None  # (layers, neurons of each); None while nothing is measured
    num_samples: int = 0
    version: str = ""

    def empty(self, neurons: tuple[int, int]) -> BinnedMoments:
        """Moments of no samples."""
        return BinnedMoments(self.length_boundaries, *neurons)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One sample's activations, float32 of shape (layers, neurons), pooled over so many tokens."""

    activations: NDArray[np.float32]
    num_tokens: int


class CalibrationStore:
    """All calibrations among these tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._last: tuple[str, str, BinnedMoments] | None = None  # name, version, numbers

    def create(self, name: str, activations: ActivationSettings, length_boundaries: Sequence[int]) -> Calibration:
        """The calibration of that name, created empty where there is none. Raises AlreadyExists where there is one with
        other settings."""
        wanted = Calibration(name, activations, tuple(length_boundaries), datetime.now(UTC))
        if not self._tables.exists(name + SUFFIX):
            self._tables.create(name + SUFFIX, _schema(wanted))
            return wanted
        found = self.get(name)
        if (found.activations, found.length_boundaries) != (wanted.activations, wanted.length_boundaries):
            raise AlreadyExists(
                "CALIBRATION_EXISTS",
                f"calibration {name!r} exists with {found.activations} and length boundaries "
                f"{list(found.length_boundaries)}, not {activations} and {list(length_boundaries)}; choose another "
                "name, or delete it first",
            )
        return found

    def get(self, name: str) -> Calibration:
        """The calibration as it is now. Raises NotFound."""
        return self.progress(name)[0]

    def progress(self, name: str) -> tuple[Calibration, set[str]]:
        """The calibration as it is now, and the ids of the samples measured so far; of a finished one none are known
        any more. Raises NotFound."""
        if not self._tables.exists(name + SUFFIX):
            raise NotFound(
                "CALIBRATION_NOT_FOUND", f"there is no calibration {name!r}; create it with CreateCalibration"
            )
        schema = self._tables.schema(name + SUFFIX)
        found = _calibration(name, schema)
        if found.version or found.weights is None:
            return found, set()
        batches = self._tables.scan(name + SUFFIX, ["ids"])
        measured = {item for batch in batches for ids in batch["ids"].to_pylist() for item in ids}
        return replace(found, num_samples=len(measured)), measured

    def page(self, size: int, after: str = "") -> list[Calibration]:
        """Up to `size` calibrations whose names come after `after`, in order of name."""
        names = [name.removesuffix(SUFFIX) for name in self._tables.names() if name.endswith(SUFFIX)]
        later = [name for name in sorted(names) if name > after]
        return first_readable(later, self.get, size)

    def delete(self, name: str) -> None:
        """Removes the calibration; nothing happens where there is none."""
        self._tables.delete(name + SUFFIX)

    def add(
        self, name: str, weights: Weights, measured: Mapping[str, Measured], created: datetime | None = None
    ) -> None:
        """Takes in samples, by id; those that were measured before, by another request at the same time say, count
        once. `created`: when the calibration was made that they were measured for. Durable on return. Raises
        PreconditionFailed where the calibration is finished, of other weights, or made anew meanwhile."""
        found, before = self.progress(name)
        if created not in (None, found.create_time):
            raise PreconditionFailed(
                "CALIBRATION_CHANGED",
                f"calibration {name!r} was deleted and made anew while samples were measured for it; measure them"
                " again",
            )
        self.check_open(found, weights)
        fresh = {item: one for item, one in measured.items() if item not in before}
        if not fresh:
            return
        num_layers, width = next(iter(fresh.values())).activations.shape
        filled = replace(found, weights=weights, neurons=(num_layers, width))
        moments = filled.empty((num_layers, width))
        for one in fresh.values():
            moments.update(one.activations[None], [one.num_tokens])
        rows = _rows(filled, list(fresh), moments)
        if found.weights is None:
            self._tables.overwrite(name + SUFFIX, rows)
        else:
            self._tables.append(name + SUFFIX, rows)

    def finish(self, name: str) -> Calibration:
        """Merges what was measured, and gives it a version; one that is finished stays as it is. Raises
        PreconditionFailed where fewer than two samples were measured for a length."""
        found = self.get(name)
        if found.version:
            return found
        moments = None if found.neurons is None else self._merged(found, found.neurons)
        fewest = 0 if moments is None else min(usual.count for usual in moments.bins)
        if moments is None or fewest < 2:
            raise PreconditionFailed(
                "CALIBRATION_TOO_SMALL",
                f"calibration {name!r} has measured {found.num_samples} samples, {fewest} of them in its smallest bin "
                f"of lengths (boundaries {list(found.length_boundaries)}); expected at least 2 in each, better 2,000",
            )
        finished = replace(found, version=_version(found, moments))
        self._tables.overwrite(name + SUFFIX, _rows(finished, (), moments))
        return finished

    def load(self, name: str, version: str) -> tuple[Calibration, BinnedMoments]:
        """A finished calibration and its numbers. Raises NotFound, and PreconditionFailed where it is not finished or
        of another version."""
        found = self.get(name)
        if not found.version or found.version != version or found.neurons is None:
            state = f"has version {found.version}" if found.version else "is not finished"
            raise PreconditionFailed(
                "OTHER_CALIBRATION", f"calibration {name!r} {state}, expected {version}; name a collection of its own"
            )
        if self._last is None or self._last[:2] != (name, version):
            self._last = (name, version, self._merged(found, found.neurons))
        return found, self._last[2]

    def check_open(self, found: Calibration, weights: Weights) -> None:
        """Raises PreconditionFailed where samples measured with `weights` must not be taken in."""
        if found.version:
            raise PreconditionFailed(
                "CALIBRATION_FINISHED", f"calibration {found.name!r} is finished; create another for other samples"
            )
        if found.weights is not None and not found.weights.fits(weights, templated=True):
            raise PreconditionFailed(
                "OTHER_WEIGHTS",
                f"calibration {found.name!r} is of {found.weights}, not of {weights}; "
                + found.weights.advice(weights, templated=True, otherwise="create one for each model"),
            )

    def _merged(self, found: Calibration, neurons: tuple[int, int]) -> BinnedMoments:
        """All rows in one. Holds one of them at a time: each has as many numbers as the model has neurons."""
        batches = self._tables.scan(found.name + SUFFIX, ["ids"], with_places=True)
        rows = [(row["ids"], row[PLACE]) for batch in batches for row in batch.to_pylist()]
        ids = [item for items, _ in rows for item in items]
        if len(ids) != len(set(ids)):  # two servers on one store, at the same moment
            raise RuntimeError(
                f"calibration {found.name!r} has measured {len(ids) - len(set(ids))} samples twice; delete it"
            )
        total = found.empty(neurons)
        # In an order of their own, or rounding would give the same samples another version.
        in_order = [place for _, place in sorted(rows)]
        for row in self._tables.take(found.name + SUFFIX, ["counts", *_ARRAYS], in_order):
            total.merge(_moments(found, neurons, row.to_pylist()[0]))
        return total


def _schema(calibration: Calibration) -> pa.Schema:
    metadata = {
        "format": _FORMAT,
        "activations": asdict(calibration.activations),
        "length_boundaries": calibration.length_boundaries,
        "create_time": calibration.create_time.isoformat(),
        "weights": None if calibration.weights is None else asdict(calibration.weights),
        "neurons": calibration.neurons,
        "num_samples": calibration.num_samples,
        "version": calibration.version,
    }
    fields = [pa.field("id", pa.string(), nullable=False)]
    if calibration.weights is not None:
        fields = [
            pa.field("ids", pa.list_(pa.string()), nullable=False),
            pa.field("counts", pa.list_(pa.int64()), nullable=False),
            *(pa.field(name, pa.large_binary(), nullable=False) for name in _ARRAYS),
        ]
    return pa.schema(fields, metadata={_METADATA_KEY: json.dumps(metadata).encode()})


def _calibration(name: str, schema: pa.Schema) -> Calibration:
    metadata = json.loads((schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    check_format(name, metadata.get("format"), _FORMAT)
    return Calibration(
        name,
        activation_settings(metadata["activations"]),
        tuple(metadata["length_boundaries"]),
        datetime.fromisoformat(metadata["create_time"]),
        None if metadata["weights"] is None else Weights(**metadata["weights"]),
        None if metadata["neurons"] is None else (metadata["neurons"][0], metadata["neurons"][1]),
        metadata["num_samples"],
        metadata["version"],
    )


def _rows(calibration: Calibration, ids: Sequence[str], moments: BinnedMoments) -> pa.Table:
    """One row: float64, little-endian, of shape (bins, layers, neurons) each."""
    arrays = [_stacked(moments, name).astype("<f8").tobytes() for name in _ARRAYS]
    counts = [usual.count for usual in moments.bins]
    columns = [[list(ids)], [counts], *([array] for array in arrays)]
    schema = _schema(calibration)
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _moments(calibration: Calibration, neurons: tuple[int, int], row: Mapping[str, Any]) -> BinnedMoments:
    moments = calibration.empty(neurons)
    arrays = {name: np.frombuffer(row[name], "<f8").reshape(-1, *neurons) for name in _ARRAYS}
    for at, (usual, count) in enumerate(zip(moments.bins, row["counts"], strict=True)):
        usual.merge(Moments(count, *(arrays[name][at].copy() for name in _ARRAYS)))
    return moments


def _stacked(moments: BinnedMoments, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.stack([getattr(usual, name) for usual in moments.bins])


def _version(calibration: Calibration, moments: BinnedMoments) -> str:
    """Names the numbers: sha256 over weights, settings and moments, 16 hex digits of it. Boundaries count where there
    are any, so that versions without are what they were before boundaries counted."""
    assert calibration.weights is not None
    made_of: list[Any] = [calibration.weights.digest, asdict(calibration.activations)]
    if calibration.length_boundaries:
        made_of.append(calibration.length_boundaries)
    digest = sha256(json.dumps(made_of).encode())
    for name in _ARRAYS:
        digest.update(_stacked(moments, name).astype("<f8").tobytes())
    return digest.hexdigest()[:16]
