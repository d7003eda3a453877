"""Files that are replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish_services.runtime import files


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"another"):
        files.write_whole(path, content, durable=durable)
        assert path.read_bytes() == content
    files.copy_durably(path, tmp_path / "copy")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"file": b"another", "copy": b"another"}


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_whole(path, b"whole", durable=True)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_whole(path, b"another", durable=True)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path], "what was written of it would keep its room on a full disk"
