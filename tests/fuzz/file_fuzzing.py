"""Files with any content, each read and checked. Used by the tests, with few, and by `make fuzz`, with many."""

from __future__ import annotations

import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.contents import damaged, rows
from tests.fuzz.readers import Reader


def fuzz(reader: Reader, folder: Path, count: int, number: int | None = None) -> tuple[int, str]:
    """Has `count` files read; returns how many were taken, and what is wrong, if anything is: of the smallest such file
    that was found, which is left in the folder. `number` is the seed; None: always the same files."""
    path = reader.prepare(folder)
    taken = 0

    def once(content: bytes) -> None:
        nonlocal taken
        taken += reader.check(path, content)

    contents = damaged(reader.seeds)
    if reader.file.endswith(".jsonl"):
        contents = st.one_of(contents, rows(reader.seeds))
    limits = settings(
        max_examples=count,
        derandomize=number is None,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    test = limits(given(contents)(once))
    try:
        (test if number is None else seed(number)(test))()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        content = path.read_bytes()
        return taken, f"{reader.name}: {type(error).__name__}: {str(error)[:500]} ({where}) for {content[:300]!r}"
    return taken, ""
