"""The vector store in object storage: LanceDB against moto's S3 server, on a port of this machine."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from unittest import mock
from urllib.request import Request, urlopen

import grpc.aio
import numpy as np
import pytest

from burnish.api.embedding.v1 import embedding_pb2 as pb
from burnish.api.embedding.v1 import embedding_pb2_grpc
from burnish_services.embedding import storage
from burnish_services.embedding.calibrations import CalibrationStore, Measured
from burnish_services.embedding.collection import EmbeddedText
from burnish_services.embedding.selecting import Candidates, ObjectiveKind, SelectionSettings, read_stored, rows_of
from burnish_services.embedding.selecting import select as run_selection
from burnish_services.embedding.settings import ActivationSettings, Source
from burnish_services.embedding.storage import ObjectStore, StoreUnavailable
from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.tables import Tables
from burnish_services.engine.factory import create_engine
from burnish_services.runtime.config import ServerSettings
from burnish_services.runtime.errors import NotFound, PreconditionFailed
from burnish_services.runtime.role import RoleUnavailable
from burnish_services.runtime.server import Server, running
from tests.service import vector_writer
from tests.service.object_store import BUCKET, point_at, s3_server
from tests.service.support import sample
from tests.service.test_embedding_crash import WRITER, killed_writer
from tests.service.vector_writer import WEIGHTS, read_state, text_of

ENGINE = partial(create_engine, "fake")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def place(endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty prefix, with what it takes to reach it in the environment."""
    point_at(endpoint, monkeypatch)
    return f"s3://{BUCKET}/{request.node.name}/store"


def keys(endpoint: str, place: str) -> list[str]:
    """All objects of the store."""
    prefix = place.removeprefix(f"s3://{BUCKET}/")
    with urlopen(f"{endpoint}/{BUCKET}?list-type=2&prefix={prefix}/") as reply:
        return [key.removeprefix(prefix + "/") for key in re.findall("<Key>(.*?)</Key>", reply.read().decode())]


def texts(*items: str, revision: int = 0) -> dict[str, EmbeddedText]:
    return {item: text_of(item, revision) for item in items}


def opened(place: str | Path) -> VectorStore:
    """A store that has seen nothing yet, as after a restart."""
    return VectorStore(Tables(place, compact_after=8))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(PreconditionFailed) as caught:
        call()
    assert caught.value.reason == "STORE_CHANGED"
    return caught.value.message


@contextmanager
def overtaken(tables: Tables, method: str, by: Callable[[], object]) -> Iterator[None]:
    """Somebody else does something just before `tables` does this."""
    original = getattr(tables, method)

    def late(*arguments: object) -> object:
        by()
        return original(*arguments)

    with mock.patch.object(tables, method, late):
        yield


# --- one server ------------------------------------------------------------------------------------------------


def test_everything_is_there_after_reopening(place: str, endpoint: str) -> None:
    store = opened(place)
    store.create("notes", Source.USER)
    assert store.put("notes", WEIGHTS, texts("a", "b")) == 2
    assert store.put("notes", WEIGHTS, texts("a", "c") | texts("b", revision=1)) == 2
    expected = {"notes": {"a": 0, "b": 1, "c": 0}}
    assert read_state(store) == read_state(opened(place)) == expected
    command = [sys.executable, str(WRITER), place, "1", "0"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(process.stdout.splitlines()[0].removeprefix("begin ")) == expected
    assert all(key.startswith("notes.lance/") for key in keys(endpoint, place))


def test_any_changes_lead_to_the_same_state_as_in_a_directory(place: str) -> None:
    rng, state = random.Random(5), vector_writer.State()
    store = VectorStore(Tables(place, compact_after=vector_writer.COMPACT_AFTER))
    for _ in range(16):
        vector_writer.change(store, state, rng)
    assert len(state["main"]) > 100
    assert read_state(store) == read_state(opened(place)) == state


def test_a_selection_is_the_one_made_in_a_directory(place: str, tmp_path: Path) -> None:
    settings, orders = SelectionSettings(7, objective=ObjectiveKind.K_CENTER), []
    for where in (place, tmp_path):
        store = opened(where)
        store.create("notes", Source.USER)
        for start in range(0, 60, 20):
            store.put("notes", WEIGHTS, texts(*(f"{number:03}" for number in range(start, start + 20))))
        stored = read_stored(store, "notes", Candidates(None), settings)
        rows = rows_of(stored, Candidates(None))
        orders.append(run_selection(settings, ObjectiveKind.K_CENTER, rows, lambda: None).selection.rows.tolist())
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 7


def test_many_small_writes_are_compacted_without_loss(place: str, endpoint: str) -> None:
    store, most = opened(place), 0
    store.create("notes", Source.USER)
    for number in range(20):
        store.put("notes", WEIGHTS, texts(f"{number:03}"))
        most = max(most, sum(key.startswith("notes.lance/data/") for key in keys(endpoint, place)))
    assert most <= 9  # 20 without compaction
    expected = {"notes": {f"{number:03}": 0 for number in range(20)}}
    assert read_state(store) == read_state(opened(place)) == expected


def test_a_compaction_spares_files_of_a_commit_under_way(place: str, endpoint: str) -> None:
    store = opened(place)
    store.create("notes", Source.USER)
    path = f"{place.removeprefix('s3://')}/notes.lance/data/0.lance"
    urlopen(Request(f"{endpoint}/{path}", data=b"of another server", method="PUT")).close()
    for number in range(8):
        store.put("notes", WEIGHTS, texts(f"{number:03}"))
    assert sorted(key for key in keys(endpoint, place) if "/data/" in key)[0] == "notes.lance/data/0.lance"
    assert len(keys(endpoint, place)) < 8


def test_a_deleted_collection_is_gone_and_its_name_free(place: str, endpoint: str) -> None:
    store = opened(place)
    for name in ("notes", "other"):
        store.create(name, Source.USER)
        store.put(name, WEIGHTS, texts("a"))
    store.delete("notes")
    store.delete("notes")
    with pytest.raises(NotFound):
        store.get("notes")
    assert [collection.name for collection in store.page(10)] == ["other"]
    assert {key.partition("/")[0] for key in keys(endpoint, place)} == {"other.lance"}
    store.create("notes", Source.USER)
    assert store.put("notes", WEIGHTS, texts("a", "b")) == 2
    assert read_state(opened(place)) == {"notes": {"a": 0, "b": 0}, "other": {"a": 0}}


@pytest.mark.parametrize("last", ["optimize", "drop"])
def test_a_deletion_cut_off_has_happened_and_is_finished_later(place: str, endpoint: str, last: str) -> None:
    store = opened(place)
    store.create("notes", Source.USER)
    for item in "abc":
        store.put("notes", WEIGHTS, texts(item))
    if last == "optimize":
        cut = mock.patch.object(ObjectStore, "_remove", side_effect=OSError("killed"))
    else:
        database = store._tables._storage.database
        cut = mock.patch.object(database, "drop_table", side_effect=OSError("killed"))
    with cut, pytest.raises(OSError, match="killed"):
        store.delete("notes")
    manifests = sum("/_versions/" in key for key in keys(endpoint, place))
    # Before the table's objects go, which is no one step, nothing is left that it could come back from.
    assert (manifests > 1) == (last == "optimize")
    assert store.page(10) == []
    assert store.create("notes", Source.RESPONSE).num_vectors == 0
    store.put("notes", WEIGHTS, texts("d"))
    assert read_state(opened(place)) == {"notes": {"d": 0}}
    with cut, pytest.raises(OSError, match="killed"):
        store.delete("notes")
    assert keys(endpoint, place)
    assert opened(place).page(10) == []
    assert not keys(endpoint, place)


def test_what_is_left_of_a_creation_cut_off_is_no_collection(place: str, endpoint: str) -> None:
    path = f"{place.removeprefix('s3://')}/torn.lance/_transactions/0-x.txn"
    urlopen(Request(f"{endpoint}/{path}", data=b"x", method="PUT")).close()
    store = opened(place)
    assert store.page(10) == []
    with pytest.raises(NotFound):
        store.get("torn")
    store.create("torn", Source.USER)
    assert store.put("torn", WEIGHTS, texts("a")) == 1


async def test_the_service_keeps_collections_there(
    place: str, endpoint: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_EMBEDDING_STORE_URI", place)
    settings = ServerSettings(
        roles=("embedding",), engine="fake", model=str(model), state_dir=tmp_path, max_model_len=256
    )
    samples = [sample(item, f"question {item}", "answer") for item in "abcde"]
    replies = []
    for _ in range(2):
        async with running(settings, ENGINE) as server, grpc.aio.insecure_channel(server.address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            await stub.CreateCollection(pb.CreateCollectionRequest(collection=pb.Collection(name="notes")))
            replies.append(await stub.EmbedSamples(pb.EmbedSamplesRequest(collection="notes", samples=samples)))
            found = await stub.GetNeighborStatistics(pb.GetNeighborStatisticsRequest(collection="notes", k=2))
    assert [reply.num_stored for reply in replies] == [5, 0]
    assert [statistics.sample_id for statistics in found.statistics] == list("abcde")
    assert keys(endpoint, place)
    assert not (tmp_path / "embedding").exists()


# --- a second server -------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_goes_on_from_what_is_stored(place: str) -> None:
    first, second = opened(place), opened(place)
    first.create("notes", Source.USER)
    first.put("notes", WEIGHTS, texts("a"))
    assert second.put("notes", WEIGHTS, texts("b")) == 1
    message = refused(lambda: first.put("notes", WEIGHTS, texts("b", "c")))
    assert place in message
    assert "give each a prefix of its own" in message
    # Nothing of that went in, and what the other one stored is known now.
    assert read_state(first) == {"notes": {"a": 0, "b": 0}}
    assert first.put("notes", WEIGHTS, texts("b", "c")) == 1
    refused(lambda: second.put("notes", WEIGHTS, texts("c")))
    restarted = opened(place)
    assert restarted.put("notes", WEIGHTS, texts("a", "b", "c", "d")) == 1
    assert read_state(restarted) == {"notes": dict.fromkeys("abcd", 0)}


def test_what_a_second_writer_changed_is_not_read_by_an_old_index(place: str) -> None:
    first, second = opened(place), opened(place)
    for name in ("notes", "other"):
        first.create(name, Source.USER)
        first.put(name, WEIGHTS, texts("a"))
    for name in ("notes", "other"):
        second.put(name, WEIGHTS, texts("a", revision=1) | texts("b"))
    refused(lambda: first.read("notes"))
    # One refusal is enough to forget all that was known.
    assert read_state(first) == {name: {"a": 1, "b": 0} for name in ("notes", "other")}


def test_a_collection_that_another_server_made_anew_is_not_taken_for_the_old_one(place: str) -> None:
    first, second = opened(place), opened(place)
    first.create("notes", Source.USER)
    first.put("notes", WEIGHTS, texts("a"))
    second.delete("notes")
    refused(lambda: first.put("notes", WEIGHTS, texts("c")))
    with pytest.raises(NotFound):
        first.get("notes")
    second.create("notes", Source.USER)
    second.put("notes", WEIGHTS, texts("a"))
    first.put("notes", WEIGHTS, texts("a"))
    second.delete("notes")
    second.create("notes", Source.USER)
    second.put("notes", WEIGHTS, texts("b"))  # as many versions as before
    refused(lambda: first.put("notes", WEIGHTS, texts("c")))
    assert first.put("notes", WEIGHTS, texts("a", "b")) == 1


@pytest.mark.parametrize("item", ["b", "c"])
def test_a_writer_that_slips_in_between_look_and_commit_is_found_out_at_once(place: str, item: str) -> None:
    first, second = opened(place), opened(place)
    first.create("notes", Source.USER)
    first.put("notes", WEIGHTS, texts("a"))
    with overtaken(first._tables, "_commit", lambda: second.put("notes", WEIGHTS, texts("b"))):
        refused(lambda: first.put("notes", WEIGHTS, texts(item)))
    if item == "c":
        assert read_state(first) == {"notes": dict.fromkeys("abc", 0)}
    else:
        with pytest.raises(RuntimeError, match="3 rows but 2 ids; delete it"):
            first.put("notes", WEIGHTS, texts("d"))


def test_a_calibration_that_counted_a_sample_twice_is_not_finished(place: str) -> None:
    first = Tables(place)
    store, other = CalibrationStore(first), CalibrationStore(Tables(place))
    measured = {item: Measured(np.ones((2, 3), np.float32), 5) for item in "ab"}
    store.create("usual", ActivationSettings(), ())
    store.add("usual", WEIGHTS, {"a": measured["a"]})
    with overtaken(first, "_commit", lambda: other.add("usual", WEIGHTS, {"b": measured["b"]})):
        refused(lambda: store.add("usual", WEIGHTS, {"b": measured["b"]}))
    with pytest.raises(RuntimeError, match="has measured 1 samples twice; delete it"):
        store.finish("usual")


def test_a_writer_that_slips_in_before_a_compaction_is_found_out(place: str) -> None:
    first, second = VectorStore(Tables(place, compact_after=2)), opened(place)
    first.create("notes", Source.USER)
    first.put("notes", WEIGHTS, texts("a"))
    with overtaken(first._tables, "_compact_if_due", lambda: second.put("notes", WEIGHTS, texts("c"))):
        refused(lambda: first.put("notes", WEIGHTS, texts("b")))
    assert read_state(first) == {"notes": dict.fromkeys("abc", 0)}


# --- kills and failures ----------------------------------------------------------------------------------------


def test_a_killed_writer_leaves_one_state_or_the_other(place: str) -> None:
    rng, unfinished = random.Random(2), 0
    for round_number in range(20):
        before, after = killed_writer(place, rng, changes=(4, 12), pause=0.05)
        time.sleep(0.3)  # the server may still be at work on the last request
        unfinished += before != after
        assert read_state(opened(place)) in (before, after), f"round {round_number}"
        if unfinished and round_number >= 2:
            break
    assert unfinished > 0, "no kill came in the middle of a change; the test proves nothing"


@pytest.mark.parametrize(
    ("uri", "environment", "complaint"),
    [
        (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": "refused"}, "Connection refused"),
        (f"s3://{BUCKET}/x", {"AWS_ENDPOINT_URL": "silent"}, "TimedOut"),
        (f"s3://{BUCKET}/x", {"AWS_ALLOW_HTTP": "false"}, "BadScheme"),
        (f"s3://{BUCKET}/x", {"AWS_ACCESS_KEY_ID": ""}, "Failed to get AWS credentials"),
        ("s3://no-such-bucket/x", {}, "NoSuchBucket"),
        ("s3:///x", {}, "expected a directory, file:///DIRECTORY, s3://BUCKET/PREFIX"),
        ("memory://x", {}, "vectors cannot be kept at 'memory://x'"),
        ("/dev/null/x", {}, "expected a directory that this server may write to"),
    ],
)
def test_a_place_that_cannot_be_used_is_told_at_once(
    place: str, uri: str, environment: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as refused:
        refused.bind(("127.0.0.1", 0))  # and does not listen
        ports = {"silent": silent.getsockname()[1], "refused": refused.getsockname()[1]}
        for name, value in environment.items():
            monkeypatch.setenv(name, f"http://127.0.0.1:{ports[value]}" if value in ports else value)
        if not environment.get("AWS_ACCESS_KEY_ID", "set"):
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setattr(storage, "_IMPATIENT", {**storage._IMPATIENT, "timeout": "300ms"})
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match=re.escape(complaint)) as caught:
            Tables(uri)
        assert time.monotonic() - begun < 15
    assert uri in str(caught.value)
    assert "BURNISH_EMBEDDING_STORE_URI" in str(caught.value)


def test_a_server_does_not_start_without_its_store(
    place: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_EMBEDDING_STORE_URI", "memory://x")
    settings = ServerSettings(
        roles=("embedding",), engine="fake", model=str(model), state_dir=tmp_path, max_model_len=256
    )
    with pytest.raises(RoleUnavailable, match="vectors cannot be kept at 'memory://x'"):
        Server(settings, ENGINE, version="test")


def test_an_outage_is_not_taken_for_absence(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "0")
    with s3_server() as own:
        point_at(own, monkeypatch)
        opened(place).create("notes", Source.USER)
        store = opened(place)
    with pytest.raises((OSError, RuntimeError)):  # not NotFound
        store.get("notes")


def test_a_path_or_a_file_uri_is_a_directory(tmp_path: Path) -> None:
    for number, where in enumerate((str(tmp_path / "some where"), f"{tmp_path.as_uri()}/some%20where")):
        with closing(Tables(where)) as tables:
            store = VectorStore(tables)
            store.create("notes", Source.USER)
            assert store.put("notes", WEIGHTS, texts("a")) == 1 - number
            np.testing.assert_array_equal(store.read("notes")[2], [text_of("a", 0).vector])
    assert [path.name for path in tmp_path.iterdir()] == ["some where"]
