"""kill -9 in the middle of writing: the store holds the state before the change or after it, never another."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.tables import Tables
from tests.service import vector_writer

WRITER = Path(vector_writer.__file__)


def start_writer(place: Path | str, seed: int, changes: int = 10_000) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), str(place), str(seed), str(changes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def follow(lines: list[str]) -> tuple[vector_writer.State, vector_writer.State]:
    """The states before and after the last change begun; the same where it was done."""
    before: vector_writer.State = {}
    after: vector_writer.State = {}
    for line in lines:
        if line == "done\n":
            before = after
        elif line.endswith("\n"):
            after = json.loads(line.removeprefix("begin "))
    return before, after


def killed_writer(
    place: Path | str, rng: random.Random, *, changes: tuple[int, int], pause: float
) -> tuple[vector_writer.State, vector_writer.State]:
    """Has a process write, kills it after a drawn number of changes and up to `pause` seconds; then as `follow`."""
    writer = start_writer(place, seed=rng.getrandbits(32))
    assert writer.stdout is not None
    lines = []
    try:
        lines += [writer.stdout.readline() for _ in range(2 * rng.randint(*changes) + 1)]
        time.sleep(rng.uniform(0, pause))
    finally:
        writer.kill()
    lines += writer.stdout.readlines()
    writer.stdout.close()
    assert writer.wait() == -9
    return follow(lines)


def test_a_killed_writer_leaves_one_state_or_the_other(tmp_path: Path) -> None:
    rng = random.Random(1)
    unfinished = 0
    for round_number in range(6):
        before, after = killed_writer(tmp_path, rng, changes=(2, 20), pause=0.03)
        unfinished += before != after
        tables = Tables(tmp_path, compact_after=vector_writer.COMPACT_AFTER)
        try:
            assert vector_writer.read_state(VectorStore(tables)) in (before, after), f"round {round_number}"
        finally:
            tables.close()
        assert not list(tmp_path.glob(".deleted-*"))
    assert unfinished > 0, "no kill came in the middle of a change; the test proves nothing"
