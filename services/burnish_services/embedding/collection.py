"""What the vector store keeps and gives: collections, embedded texts, and which weights may fill a collection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Source(StrEnum):
    """Which text of a sample a collection's vectors are of."""

    USER = "user"


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights that filled a collection; the fields of burnish.api.common.v1.ModelVersion."""

    uri: str
    digest: str
    engine: str
    dtype: str
    chat_template_digest: str

    def fits(self, other: Weights) -> bool:
        """True where vectors of both may stand side by side: the same weights, in the same number format, on the
        same engine. Where they were read from, the engine's version and the chat template, which embedding does not
        use, may differ."""
        return (self.digest, self.dtype, _kind(self.engine)) == (other.digest, other.dtype, _kind(other.engine))

    def __str__(self) -> str:
        return f"{self.digest} as {self.dtype} on {self.engine}"


def _kind(engine: str) -> str:
    return engine.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Collection:
    """A set of vectors, all from the same weights and the same kind of text."""

    name: str
    source: Source
    create_time: datetime  # UTC
    weights: Weights | None = None  # None while it is empty
    dimension: int = 0  # 0 while it is empty
    num_vectors: int = 0

    def filled_by(self, weights: Weights, dimension: int) -> Collection:
        """The same collection once these weights' vectors are in it."""
        return replace(self, weights=weights, dimension=dimension)


@dataclass(frozen=True, slots=True)
class TextRecord:
    """What is known of an embedded text besides its vector."""

    digest: str  # sha256 of the text, 64 hex digits
    num_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedText:
    """A text's vector: finite float32, shape (dimension,), not normalised."""

    record: TextRecord
    vector: NDArray[np.float32]
