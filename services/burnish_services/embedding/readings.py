"""What metrics show of the store."""

from __future__ import annotations

from collections.abc import Iterator

from burnish_services.embedding.tables import Tables
from burnish_services.runtime.readings import Reading


def read_store(tables: Tables) -> Iterator[Reading]:
    """Asked in another thread than the one that uses the tables."""
    collections = sum("." not in name for name in tables.known())
    yield Reading("embedding_collections", "Collections that are kept, earlier servers' included.", collections)
    stored = tables.stored_bytes()
    if stored is not None:
        yield Reading("embedding_stored_bytes", "Bytes of collections and calibrations in their directory.", stored)
