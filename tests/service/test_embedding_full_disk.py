"""A vector store whose disk has room for what is added, and none for a compaction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from burnish_services.embedding.collection import EmbeddedText
from burnish_services.embedding.settings import Source
from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.tables import Tables
from burnish_services.runtime.disks import is_disk_full
from tests.service.vector_writer import WEIGHTS, text_of
from tests.small_disk import fill, free, small_disk

WIDTH = 25_000  # numbers of a vector: 100 kB


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of four megabytes."""
    with small_disk(4) as folder:
        yield folder


def put(store: VectorStore, number: int) -> int:
    vector = np.full(WIDTH, number, np.float32)
    return store.put("notes", WEIGHTS, {f"{number}": EmbeddedText(text_of(f"{number}", 0).record, vector)})


def test_a_call_whose_rows_are_stored_does_not_fail_for_a_compaction(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = Tables(disk / "store", compact_after=8)
    store = VectorStore(tables)
    store.create("notes", Source.USER)
    for number in range(7):
        put(store, number)
    ballast = fill(disk, leave=600_000)
    assert put(store, 7) == 1, "a compaction would take 800 kB"
    assert "table notes stays in 8 fragments" in caplog.text
    assert "the disk is full" in caplog.text
    assert 400_000 < free(disk) < 500_000, "nothing is left of what was tried"
    assert [put(store, number) for number in (8, 9)] == [1, 1]
    assert len(caplog.records) == 1, "tried again only when there are 16"
    more = fill(disk, leave=50_000, name="more")
    with pytest.raises(RuntimeError) as caught:
        put(store, 10)
    assert is_disk_full(caught.value), "what cannot be stored still fails"

    more.unlink()
    ballast.unlink()
    for number in range(10, 16):
        assert put(store, number) == 1
    assert len(list((disk / "store" / "notes.lance" / "data").iterdir())) == 1, "compacted at 16"
    _, ids, vectors = store.read("notes")
    assert vectors[:, 0].tolist() == [float(item) for item in ids]
    assert len(ids) == 16
    tables.close()
