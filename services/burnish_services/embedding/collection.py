"""What the vector store keeps and gives: collections, embedded texts, and which weights may fill a collection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from burnish_services.embedding.settings import FeatureSettings, Source


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights that filled a collection; the fields of burnish.api.common.v1.ModelVersion."""

    uri: str
    digest: str
    engine: str
    dtype: str
    chat_template_digest: str

    def fits(self, other: Weights, *, templated: bool) -> bool:
        """True where numbers of both may stand side by side: the same weights, in the same number format, on the
        same engine, and, where what is embedded was `templated`, the same chat template. Where they were read from and
        the engine's version may differ."""
        same_template = not templated or self.chat_template_digest == other.chat_template_digest
        return same_template and (self.digest, self.dtype, _kind(self.engine)) == (
            other.digest,
            other.dtype,
            _kind(other.engine),
        )

    def advice(self, other: Weights, *, templated: bool, otherwise: str) -> str:
        """What is to be done about `other` weights, which do not fit: where it is their number format alone, the server
        is to be started with the one before; else `otherwise`."""
        if not replace(other, dtype=self.dtype).fits(self, templated=templated):
            return otherwise
        return (
            "they are the same weights in another number format, which `--dtype auto` chooses by the machine that the"
            f" server is on: start the server with --dtype {self.dtype}"
        )

    def __str__(self) -> str:
        return f"{self.digest} as {self.dtype} on {self.engine}"


def _kind(engine: str) -> str:
    return engine.partition("/")[0]


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """How a sample's active features are numbered and stored. With `per_layer` k > 0, `num_layers` times k neurons in
    [0, width) as uint16, those of a layer ascending; otherwise any number of ids in [0, num_layers * width), uint32,
    ascending."""

    num_layers: int
    width: int
    per_layer: int

    @property
    def num_features(self) -> int:
        """Features there are."""
        return self.num_layers * self.width


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of vectors, all from the same weights and the same kind of text, and of active features where asked for."""

    name: str
    source: Source
    create_time: datetime  # UTC
    features: FeatureSettings | None = None
    weights: Weights | None = None  # None while it is empty
    dimension: int = 0  # 0 while it is empty
    layout: FeatureLayout | None = None  # None while it is empty, and without features
    num_vectors: int = 0

    @property
    def is_templated(self) -> bool:
        """Whether what is embedded is the conversation as the model's chat template writes it."""
        return self.source is not Source.USER or self.features is not None

    def filled_by(self, weights: Weights, dimension: int, layout: FeatureLayout | None) -> Collection:
        """The same collection once these weights' vectors are in it."""
        return replace(self, weights=weights, dimension=dimension, layout=layout)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """What is known of an embedded text besides its vector."""

    digest: str  # sha256 of the text, 64 hex digits
    num_tokens: int  # that the vector is a mean over
    truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedText:
    """A text's vector: finite float32, shape (dimension,), not normalised; and its active features, where the
    collection has them, as its layout says."""

    record: TextRecord
    vector: NDArray[np.float32]
    features: NDArray[np.uint16] | NDArray[np.uint32] | None = None
