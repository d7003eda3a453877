"""What a command keeps of its lines until all are there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.partial import check_free, partial, partial_path
from burnish.coordinator.errors import CoordinatorError, DiskFull

LINES: list[dict[str, Any]] = [
    {"id": "a", "n": 1.5},
    {"id": "b", "text": "zwei\u2028東京 \ud800"},
    {"id": "c", "n": None},
]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def keep(out: Path, *lines: dict[str, Any], made_of: str = "this") -> None:
    """Leaves lines as a command does that was killed."""
    with partial(out, made_of) as kept:
        kept.add(lines)


def found(out: Path) -> list[str]:
    with partial(out, "this") as kept:
        return list(kept.ids)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]


def test_lines_are_found_again_and_become_the_output_in_its_order(out: Path) -> None:
    keep(out, LINES[2])
    assert not out.exists()
    keep(out, LINES[0])
    with partial(out, "this") as kept:
        assert list(kept.ids) == ["c", "a"]
        kept.add([LINES[1]])
        kept.become(["a", "b", "c"], finished=True)
    assert read(out) == LINES
    assert names(out.parent) == [out.name]


def test_of_several_lines_for_a_sample_the_last_counts(out: Path) -> None:
    failed = {"id": "a", "error": {"retryable": True}}
    keep(out, failed, LINES[2])
    with partial(out, "this") as kept:
        assert kept.errors == {"a": {"retryable": True}}
        kept.become(["a", "c"], finished=False)
    assert read(out) == [failed, LINES[2]]
    with partial(out, "this") as kept:
        assert list(kept.ids) == ["a", "c"], "they are kept until the output is finished"
        kept.add([LINES[0]])
        assert kept.errors == {}
        kept.become(["a", "c"], finished=True)
    assert read(out) == [LINES[0], LINES[2]]
    assert not partial_path(out).exists()


@pytest.mark.parametrize("tail", [b'{"id": "c", "n"', b'{"id": "c", "n": null}', b"\0\0\0\n", b"[1]\n", b'{"n": 1}\n'])
def test_what_a_kill_tore_is_dropped(out: Path, tail: bytes) -> None:
    keep(out, *LINES[:2])
    with partial_path(out).open("ab") as stream:
        stream.write(tail)
    with partial(out, "this") as kept:
        assert list(kept.ids) == ["a", "b"]
        kept.add([LINES[2]])
        kept.become(["a", "b", "c"], finished=True)
    assert read(out) == LINES


def test_a_file_is_whole_wherever_the_kill_came(out: Path) -> None:
    keep(out, *LINES)
    whole = partial_path(out).read_bytes()
    for length in range(len(whole)):
        partial_path(out).write_bytes(whole[:length])
        with partial(out, "this") as kept:
            assert list(kept.ids) == ["a", "b", "c"][: max(0, whole[:length].count(b"\n") - 1)]
            kept.add([line for line in LINES if line["id"] not in kept.ids])
            kept.become(["a", "b", "c"], finished=True)
        assert read(out) == LINES


def test_lines_of_something_else_are_never_written_over(out: Path) -> None:
    keep(out, *LINES, made_of="that")
    before = partial_path(out).read_bytes()
    with (
        pytest.raises(CoordinatorError, match="of other data, options, model or release") as raised,
        partial(out, "this"),
    ):
        pass
    assert not getattr(raised.value, "__notes__", [])
    assert partial_path(out).read_bytes() == before
    partial_path(out).unlink()
    keep(out, LINES[0])
    assert found(out) == ["a"]


def test_whether_another_writes_there_is_known_before_anything_is_asked(out: Path) -> None:
    check_free(None)
    check_free(out)
    keep(out, LINES[0])
    check_free(out)
    with partial(out, "this"), pytest.raises(CoordinatorError, match="is being written by another command"):
        check_free(out)


def test_an_exception_says_what_is_kept(out: Path) -> None:
    keep(out, *LINES)
    with pytest.raises(ValueError, match="bad") as raised, partial(out, "this"):
        raise ValueError("bad")
    assert raised.value.__notes__ == ["3 results are kept; the same command goes on from there."]
    assert names(out.parent) == [partial_path(out).name]
    partial_path(out).unlink()
    with pytest.raises(ValueError, match="bad") as nothing, partial(out, "this"):
        raise ValueError("bad")
    assert not hasattr(nothing.value, "__notes__")
    assert names(out.parent) == []


def test_one_process_at_a_time(out: Path) -> None:
    with partial(out, "this") as kept:
        kept.add(LINES[:1])
        for made_of in ("this", "that"):
            with pytest.raises(CoordinatorError, match=r"out\.jsonl is being written by another command\. Wait"):  # noqa: SIM117
                with partial(out, made_of):
                    pytest.fail("it is taken")
        kept.become(["a"], finished=True)
    assert read(out) == LINES[:1]


def test_a_file_that_was_removed_while_it_was_waited_for_is_not_taken(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = []

    def lock(handle: int, how: int) -> None:
        locked.append(handle)
        if len(locked) == 1:  # the other command has just ended
            partial_path(out).unlink()

    monkeypatch.setattr(fcntl, "flock", lock)
    keep(out, *LINES)
    assert len(locked) == 2
    monkeypatch.undo()
    assert found(out) == ["a", "b", "c"]


def test_where_files_cannot_be_locked_it_says_so(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", lock)
    with pytest.raises(CoordinatorError, match="cannot be locked"), partial(out, "this"):
        pytest.fail("it cannot be taken")


def test_a_full_disk_leaves_what_was_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(out, LINES[0])
    with partial(out, "this") as kept, monkeypatch.context() as patches:
        patches.setattr(kept, "_stream", _Full(kept._stream))
        with pytest.raises(OSError, match="space") as full:
            kept.add(LINES[1:])
    with pytest.raises(DiskFull, match="free some room") as raised, partial(out, "this"):
        raise full.value
    assert raised.value.__notes__ == ["1 results are kept; the same command goes on from there."]
    assert found(out) == ["a"]


class _Full:
    """A file that takes half a write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def truncate(self, size: int) -> None:
        self._stream.truncate(size)

    def write(self, data: bytes) -> None:
        self._stream.write(data[: len(data) // 2])
        self._stream.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
