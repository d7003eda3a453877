"""Whatever stands in a file, its reader takes it or refuses it in words that name it, and nothing else is raised. Some
hundreds of files, the same ones each time; `make fuzz` tries more, under a limit of memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.file_fuzzing import fuzz
from tests.fuzz.readers import READERS, Reader

FILES = 60  # for each reader


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_what_is_valid_is_taken(reader: Reader, tmp_path: Path) -> None:
    path = reader.prepare(tmp_path)
    taken = [reader.check(path, seed) for seed in reader.seeds]
    assert any(taken) is (reader.name != "adapter"), "an adapter's base is not there"


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_whatever_is_in_it(reader: Reader, tmp_path: Path) -> None:
    _, wrong = fuzz(reader, tmp_path, FILES)
    assert not wrong, wrong
