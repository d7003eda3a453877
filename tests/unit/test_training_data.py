"""What counts as a sample, what is left out, and how that is told; and that the server imports no torch."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from burnish_services.engine.chat import tokenize_sample
from burnish_services.engine.fake import FakeTokenizer
from burnish_services.engine.places import Roots
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.disks import is_disk_full
from burnish_services.training.data import check_digest, file_digest, read_data, resolve_file
from burnish_services.training.state import RunError
from burnish_services.training.worker import unexpected_failure


def line(answer: str = "fine", **fields: object) -> str:
    messages = [{"role": "user", "content": "how?"}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **fields})


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_tokens_and_mask_are_those_of_scoring(tmp_path: Path) -> None:
    data = read_data(write(tmp_path, line("all good", id="a")), FakeTokenizer(), 100)
    expected = tokenize_sample(FakeTokenizer(), [ChatMessage("user", "how?"), ChatMessage("assistant", "all good")])
    assert [(sample.name, sample.tokens) for sample in data.samples] == [("a", expected)]
    assert data.lengths == [len(expected.ids)]
    assert data.digest == file_digest(tmp_path / "data.jsonl")


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        line(id="good"),
        "",
        "{",
        line("word " * 100, id="long"),
        line("", id="empty"),
        '{"id": 7, "messages": [{"role": "user"}]}',
        '{"id": "surrogate", "messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"messages": [{"role": "user", "content": "and now?"}]}',
        line("line\u2028separators are text", id="separator"),
    )
    data = read_data(path, FakeTokenizer(), 60)
    assert [sample.name for sample in data.samples] == ["good", "separator"]
    assert [(skipped.name, skipped.reason) for skipped in data.skipped] == [
        ("line 3", "NOT_A_SAMPLE"),
        ("long", "TOO_LONG"),
        ("empty", "EMPTY_RESPONSE"),
        ("7", "NOT_A_SAMPLE"),
        ("surrogate", "NOT_A_SAMPLE"),
        ("line 8", "BAD_ROLES"),
    ]


def test_data_without_any_sample_is_refused_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has no samples"):
        read_data(write(tmp_path, "", ""), FakeTokenizer(), 60)
    with pytest.raises(RunError, match=r"none of the 3 samples .*\(2 NOT_A_SAMPLE, 1 EMPTY_RESPONSE\).*'line 1'"):
        read_data(write(tmp_path, "1", line(" "), "null"), FakeTokenizer(), 60)


def test_files_are_found_by_path_and_uri_and_checked(tmp_path: Path) -> None:
    path = write(tmp_path, line())
    assert resolve_file(str(path), "data_uri", Roots()) == resolve_file(path.as_uri(), "data_uri", Roots()) == path
    for uri in (str(tmp_path), "gs://bucket/x", str(path) + "x"):
        with pytest.raises(RunError, match="data_uri") as error:
            resolve_file(uri, "data_uri", Roots())
        assert error.value.failure.code == "NOT_FOUND"
    assert check_digest(path, "", "data_digest") == check_digest(path, file_digest(path), "data_digest")
    with pytest.raises(RunError, match="expected sha256:1"):
        check_digest(path, "sha256:1", "data_digest")


def test_a_full_disk_is_recognised_in_what_any_writer_raises() -> None:
    chained = RuntimeError("PytorchStreamWriter failed")
    chained.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    for error in (OSError(errno.EFBIG, "x"), RuntimeError("I/O error: No space left on device (os error 28)"), chained):
        assert is_disk_full(error)
        assert unexpected_failure(error, Path("runs")).reason == "DISK_FULL"
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert unexpected_failure(MemoryError(), Path("runs")).reason == "OUT_OF_MEMORY"
    assert unexpected_failure(KeyError("x"), Path("runs")).reason == "TRAINING_FAILED"


def test_the_server_side_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, burnish_services.training.servicer, burnish_services.training.worker\n"
        "print(sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
