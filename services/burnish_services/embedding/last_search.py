"""The last search for neighbours, kept for those who fetch what it found in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from burnish_services.embedding.neighbors import NearestNeighbors
from burnish_services.embedding.neighbors.arrays import Floats


class LastSearch:
    """One search's outcome, n · k · 16 bytes. What it was made of is told by content, about 1 s a gigabyte: a search of
    so many vectors takes minutes, and each part of its reply would take another. For one thread."""

    def __init__(self) -> None:
        self._made_of: Hashable = None
        self._found: NearestNeighbors | None = None

    def of(
        self, ids: Sequence[str], vectors: Floats, how: Hashable, search: Callable[[], NearestNeighbors]
    ) -> NearestNeighbors:
        """What `search` finds among `vectors`, shape (n, d), of `ids`, asked for in the way of `how`."""
        digest = hashlib.blake2b("\0".join(ids).encode())
        digest.update(np.ascontiguousarray(vectors).data)
        made_of = (digest.digest(), vectors.shape, how)
        if self._found is None or made_of != self._made_of:
            self._found = None  # make room before it is needed
            self._found, self._made_of = search(), made_of
        return self._found
