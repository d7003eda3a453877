"""Data sets in object storage, by moto's S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.coordinator.errors import DataAway, DataError
from burnish.coordinator.formats import find_files
from burnish.coordinator.formats.remote import local_copies
from tests.service.object_store import BUCKET, point_at, put, s3_server


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server() as url:
        point_at(url, monkeypatch)
        yield url


def content(copies: tuple[str, ...]) -> list[bytes]:
    return [file.path.read_bytes() for file in find_files(copies)]


def test_a_file_and_a_folder_are_copied(store: str, tmp_path: Path) -> None:
    put(store, "sets/one.jsonl", b"1\n")
    put(store, "sets/deeper/two.jsonl", b"2\n")
    put(store, "sets/readme.txt", b"no data")
    here = tmp_path / "here.jsonl"
    here.write_bytes(b"3\n")
    file, folder, local = local_copies(
        [f"s3://{BUCKET}/sets/one.jsonl", f"s3://{BUCKET}/sets/", str(here)], tmp_path / "a"
    )
    assert content((file,)) == [b"1\n"]
    assert Path(file).name == "one.jsonl", "the kind of file is known by its ending"
    assert content((folder,)) == [b"2\n", b"1\n"]
    assert local == str(here)


def test_what_has_changed_is_copied_again_and_nothing_else(store: str, tmp_path: Path) -> None:
    uri = put(store, "sets/one.jsonl", b"1\n")
    (copy,) = local_copies([uri], tmp_path)
    before = Path(copy).stat().st_ino
    assert local_copies([uri], tmp_path) == (copy,)
    assert Path(copy).stat().st_ino == before
    put(store, "sets/one.jsonl", b"1\n2\n")
    assert content(local_copies([uri], tmp_path)) == [b"1\n2\n"]


def test_a_run_goes_on_without_the_store(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put(store, "one.jsonl", b"1\n")
    copies = local_copies([uri], tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert local_copies([uri], tmp_path) == copies
    with pytest.raises(DataAway, match=r"s3://burnish/one.jsonl: cannot be read: .*AWS_ENDPOINT_URL"):
        local_copies([uri], tmp_path / "other")


def test_a_copy_stays_until_the_new_one_is_whole(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put(store, "one.jsonl", b"1\n")
    (copy,) = local_copies([uri], tmp_path)
    put(store, "one.jsonl", b"1\n2\n")

    def cut_off(*_: object) -> None:
        raise OSError("connection reset")

    with monkeypatch.context() as patched:
        patched.setattr("burnish.coordinator.formats.remote.shutil.copyfileobj", cut_off)
        with pytest.raises(DataAway, match=r"one.jsonl cannot be copied to .*: connection reset"):
            local_copies([uri], tmp_path)
    assert Path(copy).read_bytes() == b"1\n"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert content(local_copies([uri], tmp_path)) == [b"1\n"]


def test_a_copy_that_was_cut_off_is_none(store: str, tmp_path: Path) -> None:
    uri = put(store, "one.jsonl", b"1\n")
    (copy,) = local_copies([uri], tmp_path)
    note = Path(copy).parent.with_suffix(".json")
    note.unlink()  # written last
    Path(copy).write_bytes(b"")
    assert content(local_copies([uri], tmp_path)) == [b"1\n"]


def test_a_copy_that_is_no_longer_there_is_none(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put(store, "one.jsonl", b"1\n")
    (copy,) = local_copies([uri], tmp_path)
    Path(copy).write_bytes(b"")  # as after a power failure: the note is there, and the content is not
    assert content(local_copies([uri], tmp_path)) == [b"1\n"]
    Path(copy).unlink()
    assert content(local_copies([uri], tmp_path)) == [b"1\n"]
    Path(copy).unlink()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(DataAway):
        local_copies([uri], tmp_path)


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"https://host/one.jsonl: expected .* in s3://, gs:// or az://"):
        local_copies(["https://host/one.jsonl"], tmp_path)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("none.jsonl", "no such file or folder"), ("*.jsonl", "no pattern"), ("", r"expected s3://BUCKET/PATH")],
)
def test_names_of_nothing_are_refused(store: str, name: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=complaint) as raised:
        local_copies([f"s3://{BUCKET}/{name}"], tmp_path)
    assert raised.value.exit_code == 2, "no later attempt finds it"
