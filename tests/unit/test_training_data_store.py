"""Copies of data on disk: whole or not there, removed when nobody needs them; and URIs without their credentials."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_services.engine.places import Roots
from burnish_services.training import data_store, sources
from burnish_services.training.core import SpecError
from burnish_services.training.data_store import DataStore, LineCount, StoredFile
from burnish_services.training.remote import RemoteError, read_remote, redacted
from burnish_services.training.sources import Abandoned, Sources
from burnish_services.training.state import RunError

HOUR = 3600.0


@pytest.fixture
def store(tmp_path: Path) -> DataStore:
    return store_in(tmp_path)


def store_in(tmp_path: Path, *, in_use: Collection[str] = (), most: int = 0) -> DataStore:
    return DataStore(tmp_path / "data", 2**20, HOUR, lambda: in_use, most)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def stored(store: DataStore, content: bytes, expected: str = "") -> StoredFile:
    incoming = store.receive("the test")
    try:
        for start in range(0, len(content), 1000):
            incoming.write(content[start : start + 1000])
        return incoming.keep(expected)
    finally:
        incoming.close()


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "data").iterdir())


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_a_copy_is_named_by_its_content_and_found_again(store: DataStore, tmp_path: Path) -> None:
    content = b'{"a": 1}\n\n{"b": 2}\n' * 300
    kept = stored(store, content, digest_of(content))
    assert (kept.digest, kept.size, kept.lines) == (digest_of(content), len(content), 600)
    assert kept.path.read_bytes() == content
    assert stored(store, content) == kept
    assert names(tmp_path) == [f"{digest_of(content)[7:]}.jsonl"]
    assert store.find(kept.digest) == kept.path
    assert store.find(digest_of(b"")) is None
    assert stored(store, b"").lines == 0


@given(st.lists(st.sampled_from([b"\n", b"x", b" ", b"\r\n", b"{}\n", b""])))
def test_lines_are_counted_however_the_content_is_cut(pieces: list[bytes]) -> None:
    count = LineCount()
    for piece in pieces:
        count.add(piece)
    assert count.count == sum(bool(line.strip()) for line in b"".join(pieces).split(b"\n"))


def test_what_was_not_kept_leaves_nothing(store: DataStore, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the test has digest .*expected sha256:0") as error:
        stored(store, b"x" * 5000, "sha256:0")
    assert error.value.failure.reason == "DATA_DIGEST_MISMATCH"
    with pytest.raises(RunError, match=r"more than 1,048,576 bytes.*BURNISH_TRAINING_MAX_DATA_BYTES") as error:
        stored(store, b"x" * (2**20 + 1))
    assert (error.value.failure.code, error.value.failure.reason) == ("INVALID_ARGUMENT", "DATA_TOO_LARGE")
    incoming = store.receive("the test")
    incoming.write(b"abc")
    incoming.close()
    assert names(tmp_path) == []
    stored(store, b"x" * 2**20)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """The kernel answers a process whose files get larger as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_and_leaves_nothing(store: DataStore, tmp_path: Path) -> None:
    with files_limited_to(100_000), pytest.raises(RunError, match="the disk is full") as error:
        stored(store, b"x" * 500_000)
    assert (error.value.failure.code, error.value.failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert names(tmp_path) == []


def test_the_same_content_can_arrive_many_times_at_once(store: DataStore, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda _: stored(store, content), range(12)))
    assert len(set(kept)) == 1
    assert kept[0].path.read_bytes() == content
    assert len(names(tmp_path)) == 1


def test_old_copies_go_unless_they_are_in_use(store: DataStore, tmp_path: Path) -> None:
    store.sweep()  # there is not even a directory yet
    assert store.stored_bytes() == 0
    old, used, found, new = (stored(store, text).path for text in (b"old", b"used", b"found", b"new"))
    for path in (old, used, found):
        age(path, HOUR + 60)
    assert store.find(digest_of(b"found")) == found  # as creating a run does
    store_in(tmp_path, in_use={used.name}).sweep()
    assert {path for path in (old, used, found, new) if path.exists()} == {used, found, new}
    store.remove_unfinished()
    (tmp_path / "data/.incoming-1").touch()
    store.remove_unfinished()
    assert len(names(tmp_path)) == 3


def test_no_more_is_kept_than_may_be_together(tmp_path: Path) -> None:
    needed = f"{digest_of(b'n' * 3000)[7:]}.jsonl"
    store = store_in(tmp_path, in_use={needed}, most=10_000)
    old, used = stored(store, b"o" * 4000).path, stored(store, b"n" * 3000).path
    for _ in range(2):  # nothing of what was refused is counted
        with pytest.raises(
            RunError, match=r"keeps 7,000 bytes.* 3,000 more are.* 10,000 together.*_MAX_STORED"
        ) as error:
            stored(store, b"x" * 4000)
        assert (error.value.failure.code, error.value.failure.reason) == ("RESOURCE_EXHAUSTED", "DISK_FULL")
    assert store.stored_bytes() == 7000
    stored(store, b"y" * 3000)
    for path in (old, used):
        age(path, HOUR + 60)
    assert stored(store, b"x" * 4000).path.exists()
    assert not old.exists(), "nobody needed it"
    assert store.stored_bytes() == 10_000
    assert not list((tmp_path / "data").glob(".incoming-*"))


def test_what_is_there_can_be_brought_again_however_full_it_is(tmp_path: Path) -> None:
    content = b"x" * 9000
    store = store_in(tmp_path, most=10_000)
    kept = stored(store, content)
    incoming = store.receive("the test")
    incoming.announce(kept.digest)
    incoming.write(content)
    assert incoming.keep(kept.digest) == kept
    incoming.close()
    with pytest.raises(RunError, match="10,000 together"):
        stored(store, b"y" * 1001)
    stored(store, b"y" * 1000)


def test_what_is_announced_as_there_is_counted_beyond_what_is_there(tmp_path: Path) -> None:
    store = store_in(tmp_path, most=10_000)
    kept = stored(store, b"x" * 3000)
    incoming = store.receive("the test")
    incoming.announce(kept.digest)
    incoming.write(b"y" * 9000)  # 3,000 of which nobody counts, 6,000 of the 7,000 that are left
    with pytest.raises(RunError, match=r"keeps 3,000 bytes.* 6,000 more are.* 10,000 together"):
        incoming.write(b"y" * 1001)
    incoming.close()
    stored(store, b"z" * 7000)


def test_a_copy_that_somebody_else_removed_keeps_no_other_from_going(tmp_path: Path) -> None:
    class Racing(set[str]):
        def __contains__(self, name: object) -> bool:
            if not self:  # the first that is looked at goes meanwhile
                self.add(str(name))
                (tmp_path / "data" / str(name)).unlink()
            return False

    store = store_in(tmp_path, in_use=Racing())
    for content in (b"a", b"b", b"c"):
        age(stored(store, content).path, HOUR + 60)
    store.sweep()
    assert names(tmp_path) == []


def test_many_that_arrive_at_once_share_what_there_is(tmp_path: Path) -> None:
    store = store_in(tmp_path, most=10_000)
    first, second = store.receive("the first"), store.receive("the second")
    first.write(b"x" * 6000)
    second.write(b"y" * 4000)
    with pytest.raises(RunError, match=r"the second cannot be stored: .*keeps 0 bytes.* 10,000 more are being stored"):
        second.write(b"y")
    second.close()
    second.close()
    first.write(b"x" * 4000)
    kept = first.keep("")
    assert kept.size == 10_000
    with pytest.raises(RunError, match="keeps 10,000 bytes"):
        stored(store, b"z")
    first.close()
    with pytest.raises(ValueError, match="closed"):  # by a thread that was late, when its call was cancelled
        second.write(b"y")
    kept.path.unlink()  # by hand
    assert stored(store, b"z" * 10_000).size == 10_000


def test_a_copy_whose_name_may_not_last_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    store = store_in(tmp_path, most=10_000)
    with monkeypatch.context() as broken:
        broken.setattr(data_store, "sync_path", fail)
        with pytest.raises(RunError, match="Input/output error"):
            stored(store, b"x" * 6000)
    with pytest.raises(RunError, match=r"keeps 6,000 bytes.* 4,000 more are"):
        stored(store, b"y" * 4001)


def test_whoever_goes_away_stops_the_fetching(
    store: DataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned = threading.Event()

    def endless(uri: str) -> Iterator[bytes]:
        for number in range(10):
            assert number < 3, "it went on"
            if number == 2:
                abandoned.set()
            yield b"x"

    monkeypatch.setattr(sources, "read_remote", endless)
    with pytest.raises(Abandoned):
        Sources(("s3",), store, Roots()).locate("s3://bucket/key", "", "data_uri", abandoned)
    assert names(tmp_path) == []


def test_no_uri_can_choose_another_host_or_carry_a_password(store: DataStore) -> None:
    for uri in (
        "s3://evil.example:80?/key",
        "s3://user@host/key",
        "s3://10.0.0.1:9000/key",
        "s3:///key",
        "s3://bucket",
        "s3://bucket/folder/",
        "s3://id:secret@bucket/key",
    ):
        with pytest.raises(SpecError, match="data_uri") as error:
            Sources(("s3",), store, Roots()).locate(uri, "", "data_uri", threading.Event())
        assert "secret" not in str(error.value)


def test_credentials_are_left_out_of_messages() -> None:
    assert redacted("https://me:pw@host/a/b?signature=xyz") == "https://host/a/b"
    assert redacted("s3://bucket/odd?name") == "s3://bucket/odd?name"
    with pytest.raises(RemoteError) as error:
        list(read_remote("http://me:pw@127.0.0.1:1/a?signature=xyz"))
    assert "pw" not in str(error.value)
    assert "xyz" not in str(error.value)
