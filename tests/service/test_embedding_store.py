"""The vector store on a real LanceDB."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from lancedb.table import LanceTable

from burnish._channel import DEFAULT_DEADLINES
from burnish_services.embedding import storage
from burnish_services.embedding import store as store_module
from burnish_services.embedding.calibrations import CalibrationStore, Measured
from burnish_services.embedding.collection import EmbeddedText, FeatureLayout, TextRecord
from burnish_services.embedding.readings import read_store
from burnish_services.embedding.settings import ActivationSettings, FeatureSettings, Rule, Source
from burnish_services.embedding.storage import LocalDirectory
from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.tables import Tables
from burnish_services.runtime.directory_lock import DirectoryLocked, patiently
from burnish_services.runtime.errors import AlreadyExists, NotFound, PreconditionFailed
from tests.service.test_embedding_crash import WRITER, start_writer
from tests.service.vector_writer import WEIGHTS, read_state, text_of


def texts(*items: str, revision: int = 0) -> dict[str, EmbeddedText]:
    return {item: text_of(item, revision) for item in items}


def fragments(directory: Path, name: str) -> int:
    return len(list((directory / f"{name}.lance" / "data").iterdir()))


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    opened = Tables(tmp_path, compact_after=8)
    yield opened
    opened.close()


@pytest.fixture
def store(tables: Tables) -> VectorStore:
    return VectorStore(tables)


def test_creating_twice_gives_the_same_collection(store: VectorStore) -> None:
    created = store.create("notes", Source.USER)
    assert (created.weights, created.dimension, created.num_vectors) == (None, 0, 0)
    assert store.create("notes", Source.USER) == created == store.get("notes")


def test_other_settings_under_the_same_name_are_refused(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    with pytest.raises(AlreadyExists, match="source 'user', not 'response'"):
        store.create("notes", Source.RESPONSE)
    with pytest.raises(AlreadyExists, match="with features None, not FeatureSettings"):
        store.create("notes", Source.USER, FeatureSettings())
    assert store.create("rich", Source.ALL, FeatureSettings(k=5)) == store.get("rich")
    with pytest.raises(AlreadyExists, match="k=5"):
        store.create("rich", Source.ALL, FeatureSettings(k=6))


def test_only_new_and_changed_texts_are_stored(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    assert store.put("notes", WEIGHTS, texts("a", "b")) == 2
    assert store.put("notes", WEIGHTS, texts("a", "b")) == 0
    assert store.put("notes", WEIGHTS, texts("a", "c") | texts("b", revision=1)) == 2
    assert read_state(store) == {"notes": {"a": 0, "b": 1, "c": 0}}
    collection = store.get("notes")
    assert (collection.weights, collection.dimension, collection.num_vectors) == (WEIGHTS, 48, 3)


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    store = VectorStore(tables)
    created = store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts("a"))
    store.put("notes", WEIGHTS, texts("b") | texts("a", revision=3))
    tables.close()
    tables.close()
    tables = Tables(tmp_path)
    reopened = VectorStore(tables)
    assert read_state(reopened) == {"notes": {"a": 3, "b": 0}}
    assert reopened.get("notes") == replace(created, weights=WEIGHTS, dimension=48, num_vectors=2)
    tables.close()


def test_vectors_of_other_weights_are_refused_and_change_nothing(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts("a"))
    for other in (
        replace(WEIGHTS, digest="sha256:2"),
        replace(WEIGHTS, dtype="bfloat16"),
        replace(WEIGHTS, engine="vllm/1"),
    ):
        with pytest.raises(PreconditionFailed, match="must not be mixed"):
            store.put("notes", other, texts("b"))
    moved = replace(WEIGHTS, uri="/elsewhere", engine="fake/2", chat_template_digest="0123456789abcdef")
    assert store.put("notes", moved, texts("c")) == 1
    assert read_state(store) == {"notes": {"a": 0, "c": 0}}


@pytest.mark.parametrize("few", [0, 1000])
def test_ids_may_hold_anything(store: VectorStore, few: int) -> None:
    ids = ["it's", 'a"b', "back\\slash", "nul\0", "%", "ü😀", "\n", "x" * 256, "', 'b"]
    store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts(*ids, "plain"))
    store.put("notes", WEIGHTS, texts(*ids, revision=1))
    with mock.patch.object(store_module, "_FEW", few):
        _, found, vectors = store.read("notes", [*ids, ids[0]])
    assert found == sorted(ids)
    np.testing.assert_array_equal(vectors, [text_of(item, 1).vector for item in found])
    assert read_state(store) == {"notes": dict.fromkeys(ids, 1) | {"plain": 0}}


def test_ids_that_are_not_there_are_named(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    with pytest.raises(PreconditionFailed, match="1 of 1 ids are not in collection 'notes', such as 'a'"):
        store.read("notes", ["a"])
    collection, ids, vectors = store.read("notes")
    assert (collection.num_vectors, ids, vectors.shape) == (0, [], (0, 0))
    store.put("notes", WEIGHTS, texts("a"))
    with pytest.raises(PreconditionFailed, match=re.escape("5 of 6 ids are not in collection 'notes', such as 'b'")):
        store.read("notes", ["f", "e", "d", "c", "b", "a"])


def test_pages_of_collections_come_in_order_of_name(store: VectorStore) -> None:
    names = ["b", "a", "a-2", "a_1", "c", "0"] + [f"n{number:03}" for number in range(20)]
    for name in names:
        store.create(name, Source.USER)
    assert [collection.name for collection in store.page(100)] == sorted(names)
    assert [collection.name for collection in store.page(2, after="a")] == ["a-2", "a_1"]


def test_a_deleted_collection_is_gone_and_its_name_free(store: VectorStore, tmp_path: Path) -> None:
    store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts("a"))
    store.delete("notes")
    store.delete("notes")
    with pytest.raises(NotFound):
        store.get("notes")
    with pytest.raises(NotFound):
        store.put("notes", WEIGHTS, texts("a"))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    store.create("notes", Source.USER)
    assert store.put("notes", replace(WEIGHTS, digest="sha256:2"), texts("a")) == 1


def test_many_small_writes_are_compacted_without_loss(store: VectorStore, tmp_path: Path) -> None:
    store.create("notes", Source.USER)
    highest = 0
    for number in range(60):
        changed = texts(f"{number - 1:03}a", revision=1) if number % 3 == 1 else {}
        store.put("notes", WEIGHTS, texts(f"{number:03}a", f"{number:03}b") | changed)
        highest = max(highest, fragments(tmp_path, "notes"))
    assert highest <= 10  # 61 without compaction
    expected = {f"{number:03}{letter}": 0 for number in range(60) for letter in "ab"}
    expected |= {f"{number:03}a": 1 for number in range(59) if number % 3 == 0}
    assert read_state(store) == {"notes": expected}
    assert len(list((tmp_path / "notes.lance" / "_versions").glob("*.manifest"))) <= 12


def test_more_collections_than_are_cached(store: VectorStore) -> None:
    for number in range(7):
        store.create(f"c{number}", Source.USER)
        store.put(f"c{number}", WEIGHTS, texts(f"{number}"))
    for number in range(7):
        assert store.put(f"c{number}", WEIGHTS, texts(f"{number}", "new")) == 1
    assert all(sorted(rows) == [name[1:], "new"] for name, rows in read_state(store).items())


def test_what_is_stored_is_read_again_after_a_write_whose_outcome_is_unknown(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts("a"))
    with mock.patch.object(LocalDirectory, "_make_durable", side_effect=OSError("disk gone")), pytest.raises(OSError):
        store.put("notes", WEIGHTS, texts("b") | texts("a", revision=1))
    assert read_state(store) == {"notes": {"a": 1, "b": 0}}
    assert store.put("notes", WEIGHTS, texts("b") | texts("a", revision=1)) == 0


def test_what_was_computed_for_another_collection_of_the_name_is_refused(store: VectorStore) -> None:
    before = store.create("notes", Source.USER).create_time
    assert store.put("notes", WEIGHTS, texts("a"), created=before) == 1
    store.delete("notes")
    store.create("notes", Source.RESPONSE)
    with pytest.raises(PreconditionFailed, match="was deleted and made anew"):
        store.put("notes", WEIGHTS, texts("b"), created=before)
    assert store.put("notes", WEIGHTS, texts("b"), created=store.get("notes").create_time) == 1


def test_a_second_store_on_the_directory_is_refused(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(DirectoryLocked, match="this very process"):
        Tables(tmp_path)
    # The attempt must not have freed the lock for others.
    other = start_process(tmp_path)
    assert other.returncode != 0
    assert "only one server may write to it" in other.stderr
    tables.close()
    assert start_process(tmp_path).returncode == 0


def start_process(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WRITER), str(directory), "1", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_another_process_is_named_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    writer = start_writer(tmp_path, seed=1)
    assert writer.stdout is not None
    try:
        writer.stdout.readline()
        with pytest.raises(DirectoryLocked, match=f"process {writer.pid}"):
            Tables(tmp_path)
        with pytest.raises(DirectoryLocked, match=f"process {writer.pid}"):
            patiently(partial(Tables, tmp_path), 0.2)
        # What a killed command leaves behind ends a while later; its successor waits.
        threading.Timer(0.5, writer.kill).start()
        patiently(partial(Tables, tmp_path), 60).close()
        assert writer.wait(10) < 0
    finally:
        writer.kill()
        writer.stdout.close()
        writer.wait()
    Tables(tmp_path).close()


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "torn.lance" / "data").mkdir(parents=True)
    (tmp_path / ".deleted-1" / "data").mkdir(parents=True)
    tables = Tables(tmp_path)
    store = VectorStore(tables)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]
    (tmp_path / "torn.lance" / "_versions").mkdir(parents=True)
    assert store.page(10) == []
    with pytest.raises(NotFound):
        store.get("torn")
    store.create("torn", Source.USER)
    assert store.put("torn", WEIGHTS, texts("a")) == 1
    tables.close()


def test_a_table_of_another_program_is_not_touched(store: VectorStore, tables: Tables) -> None:
    tables.create("foreign", pa.schema([pa.field("x", pa.int32())]))
    with pytest.raises(PreconditionFailed, match="format unknown"):
        store.get("foreign")
    with pytest.raises(PreconditionFailed, match="format unknown"):
        store.put("foreign", WEIGHTS, texts("a"))


def test_a_stored_text_is_described_as_it_was_embedded(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    record = TextRecord("ab" * 32, 17, True)
    store.put("notes", WEIGHTS, {"a": EmbeddedText(record, np.arange(4, dtype=np.float32))})
    collection, found = store.find("notes", ["a", "b"])
    assert (collection.dimension, found) == (4, {"a": record})


@pytest.mark.parametrize("few", [0, 1000])
def test_features_are_kept_beside_vectors(store: VectorStore, few: int) -> None:
    packed, ragged = FeatureLayout(2, 70_000 // 2, 3), FeatureLayout(2, 50_000, 0)
    rng = np.random.default_rng(few)
    ids = [f"{number:03}" for number in range(40)]
    fixed = {item: rng.integers(0, 35_000, 6).astype(np.uint16) for item in ids}
    loose = {
        item: np.sort(rng.choice(100_000, number, replace=False)).astype(np.uint32) for number, item in enumerate(ids)
    }
    for name, features, layout in (("packed", fixed, packed), ("ragged", loose, ragged)):
        store.create(name, Source.ALL, FeatureSettings(rule=Rule.TOP_K))
        for some in (ids[:25], ids[25:]):
            texts = {item: replace(text_of(item, 0), features=features[item]) for item in some}
            assert store.put(name, WEIGHTS, texts, layout) == len(some)
        changed = replace(text_of("007", 1), features=features["008"])
        assert store.put(name, WEIGHTS, {"007": changed}, layout) == 1
        assert store.get(name).layout == layout
        wanted = ["007", "000", "030"]
        with mock.patch.object(store_module, "_FEW", few):
            found = store.read_features(name, wanted)
        for row, item in zip(found, ["008", "000", "030"], strict=True):
            np.testing.assert_array_equal(row, features[item])
            assert row.dtype == features[item].dtype
        assert [record.digest for record in store.records(name, ["000"])] == [text_of("000", 0).record.digest]


def test_a_collection_without_features_says_so(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts("a"))
    with pytest.raises(PreconditionFailed, match="created without them"):
        store.read_features("notes", ["a"])
    store.create("rich", Source.USER, FeatureSettings())
    with pytest.raises(PreconditionFailed, match="it is empty"):
        store.read_features("rich", [])


def test_templates_matter_where_conversations_are_embedded(store: VectorStore) -> None:
    other = replace(WEIGHTS, chat_template_digest="0123456789abcdef")
    store.create("notes", Source.ALL)
    store.put("notes", WEIGHTS, texts("a"))
    with pytest.raises(PreconditionFailed, match="chat templates"):
        store.put("notes", other, texts("b"))


def test_the_same_weights_in_another_number_format_are_told_how_to_be_the_same(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    store.put("notes", WEIGHTS, texts("a"))
    other = replace(WEIGHTS, dtype="float16")
    with pytest.raises(PreconditionFailed, match=f"start the server with --dtype {WEIGHTS.dtype}$") as error:
        store.put("notes", other, texts("b"))
    assert error.value.reason == "OTHER_WEIGHTS"
    with pytest.raises(PreconditionFailed, match=r"name a collection of its own for each model$"):
        store.put("notes", replace(other, digest="sha256:other"), texts("b"))


def test_housekeeping_that_cannot_even_look_fails_no_call(
    store: VectorStore, tables: Tables, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.create("notes", Source.USER)
    for number in range(7):
        with mock.patch.object(LanceTable, "stats", side_effect=RuntimeError("no answer")):
            assert store.put("notes", WEIGHTS, texts(f"{number}")) == 1
    assert "fragments cannot be counted: no answer" in caplog.text
    real = LanceTable.optimize

    def cleaned_away(table: LanceTable, *given: Any, **named: Any) -> None:
        real(table, *given, **named)
        if named:  # after the compaction
            broken.start()

    broken = mock.patch.object(LanceTable, "count_rows", side_effect=RuntimeError("gone for the moment"))
    with mock.patch.object(LanceTable, "optimize", cleaned_away):
        assert store.put("notes", WEIGHTS, texts("7")) == 1
    broken.stop()
    assert "after its old files were removed: gone for the moment" in caplog.text
    assert fragments(tmp_path, "notes") == 1
    assert store.put("notes", WEIGHTS, texts("8")) == 1
    assert read_state(store) == {"notes": {f"{number}": 0 for number in range(9)}}


# --- housekeeping ----------------------------------------------------------------------------------------------


def stored_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@contextmanager
def failing_compactions(tables: Tables, error: Exception) -> Iterator[mock.Mock]:
    """Each table that is opened fails to be compacted, and nothing comes of it."""
    tried = mock.Mock(side_effect=error)
    with mock.patch.object(LanceTable, "optimize", tried):
        yield tried


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("a defect of LanceDB"), "compacting it failed;"),
    ],
)
def test_what_is_stored_is_answered_for_even_if_it_cannot_be_compacted(
    store: VectorStore, tables: Tables, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, told: str
) -> None:
    store.create("notes", Source.USER)
    with failing_compactions(tables, error) as tried:
        for number in range(40):
            assert store.put("notes", WEIGHTS, texts(f"{number:03}")) == 1
            assert store.put("notes", WEIGHTS, texts(f"{number:03}")) == 0
        # At 8 fragments, and when they have doubled: 16, 32.
        assert tried.call_count == 3
    assert [told in record.getMessage() for record in caplog.records] == [True] * 3
    for number in range(40, 64):  # tried again at 64
        assert fragments(tmp_path, "notes") == number
        store.put("notes", WEIGHTS, texts(f"{number:03}"))
    assert fragments(tmp_path, "notes") == 1
    for number in range(64, 71):
        store.put("notes", WEIGHTS, texts(f"{number:03}"))
    assert fragments(tmp_path, "notes") == 1, "after one that went well, 8 are enough again"
    assert read_state(store) == {"notes": {f"{number:03}": 0 for number in range(71)}}


def test_a_compaction_that_is_written_but_perhaps_not_durable_is_told(store: VectorStore) -> None:
    store.create("notes", Source.USER)
    for number in range(7):
        store.put("notes", WEIGHTS, texts(f"{number}"))
    durable, calls = LocalDirectory._make_durable, iter(range(2))

    def late(storage: LocalDirectory, name: str, known: set[tuple[str, str]]) -> None:
        if next(calls):
            raise OSError(errno.EIO, "disk gone")
        durable(storage, name, known)

    with mock.patch.object(LocalDirectory, "_make_durable", late), pytest.raises(OSError, match="disk gone"):
        store.put("notes", WEIGHTS, texts("7"))
    assert store.put("notes", WEIGHTS, texts("7")) == 0
    assert read_state(store) == {"notes": {f"{number}": 0 for number in range(8)}}


def test_files_that_cannot_be_removed_fail_no_call(
    store: VectorStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.create("notes", Source.USER)
    original = LanceTable.optimize

    def optimize(table: LanceTable, **more: object) -> None:
        if more:
            raise PermissionError("not yours")
        original(table)

    with mock.patch.object(LanceTable, "optimize", optimize):
        for number in range(8):
            store.put("notes", WEIGHTS, texts(f"{number}"))
    assert "files that table notes needs no more stay until its next compaction: not yours" in caplog.text
    assert fragments(tmp_path, "notes") == 9, "the compacted one beside those before"
    assert read_state(store) == {"notes": {f"{number}": 0 for number in range(8)}}


def measured(*numbers: int) -> dict[str, Measured]:
    rng = np.random.default_rng(11)
    drawn = [Measured(rng.standard_normal((3, 16)).astype(np.float32), 4 + number % 9) for number in range(30)]
    return {f"{number * 37 % 100:02}": drawn[number] for number in numbers}


@pytest.mark.parametrize("step", [1, -1])
def test_a_calibration_has_the_version_that_it_always_had(tables: Tables, step: int) -> None:
    calibrations = CalibrationStore(tables)
    calibrations.create("usual", ActivationSettings(), (8,))
    for start in range(0, 30, 5)[::step]:
        calibrations.add("usual", WEIGHTS, measured(*range(start, start + 5)))
    # Collections name it: were it another one, they could not be filled any more.
    assert calibrations.finish("usual").version == "65b5aa1a5c1a55c9"


def test_finishing_a_calibration_may_take_as_long_as_measuring_for_it() -> None:
    assert DEFAULT_DEADLINES["FinishCalibration"] >= DEFAULT_DEADLINES["MeasureSamples"]


def test_a_calibration_is_finished_with_one_row_in_memory(tables: Tables) -> None:
    calibrations = CalibrationStore(tables)
    calibrations.create("usual", ActivationSettings(), ())
    for number in range(5):
        calibrations.add("usual", WEIGHTS, measured(2 * number, 2 * number + 1))
    scan, take = Tables.scan, LanceTable.take_row_ids
    with (
        mock.patch.object(Tables, "scan", autospec=True, side_effect=scan) as scanned,
        mock.patch.object(LanceTable, "take_row_ids", autospec=True, side_effect=take) as taken,
    ):
        calibrations.finish("usual")
    assert all(call.args[2] == ["ids"] for call in scanned.call_args_list), "of every row but who is in it"
    assert [len(call.args[1]) for call in taken.call_args_list] == [1] * 5


def test_finishing_a_calibration_frees_what_its_batches_took(tables: Tables, tmp_path: Path) -> None:
    calibrations = CalibrationStore(tables)
    calibrations.create("usual", ActivationSettings(), ())
    rng = np.random.default_rng(0)
    for number in range(6):
        wide = rng.standard_normal((2, 5000)).astype(np.float32)
        calibrations.add("usual", WEIGHTS, {f"{number}": Measured(wide, 5)})
    row = 4 * 8 * wide.size
    assert stored_bytes(tmp_path) > 6 * row
    finished = calibrations.finish("usual")
    assert row < stored_bytes(tmp_path) < 1.2 * row
    assert calibrations.finish("usual") == finished
    usual = calibrations.load("usual", finished.version)[1].bins[0]
    assert usual.count == 6
    tables.close()
    again = Tables(tmp_path)
    np.testing.assert_array_equal(CalibrationStore(again).load("usual", finished.version)[1].bins[0].mean, usual.mean)
    again.close()


def test_what_is_kept_can_be_read_off(tables: Tables, store: VectorStore, tmp_path: Path) -> None:
    def readings(tables: Tables) -> dict[str, float]:
        return {one.name: one.value for one in read_store(tables)}

    empty = stored_bytes(tmp_path)
    assert readings(tables) == {"embedding_collections": 0, "embedding_stored_bytes": empty}
    store.create("notes", Source.USER)
    store.create("other", Source.USER)
    CalibrationStore(tables).create("usual", ActivationSettings(), ())
    store.put("notes", WEIGHTS, texts("a"))
    assert readings(tables) == {"embedding_collections": 2, "embedding_stored_bytes": empty}, "looked at once a minute"
    store.delete("other")
    tables.close()
    with mock.patch.object(storage, "_MEASURED_EVERY", 0.0):
        reopened = Tables(tmp_path)
        assert readings(reopened) == {
            "embedding_collections": 1,
            "embedding_stored_bytes": stored_bytes(tmp_path),
        }
        reopened.close()
