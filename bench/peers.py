"""Contenders as processes of their own, which wait while others are timed: JSON orders in, JSON answers out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Peer:
    """A process that serves (see `serve`); ready when made."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.at_rest_mib: float = self._answer()["peak_mib"]

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """What it answers, with `seconds` and `peak_mib`, the most memory it had since the last answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended with {self._process.wait()}; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def started(module: str, *arguments: str) -> Iterator[Peer]:
    """`python -m module arguments`, until left."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    try:
        yield Peer(process)
    finally:
        process.stdin.close()
        process.wait()


def serve(prepare: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Prepares once, then answers orders with what the prepared function makes of them, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to standard error
    run = prepare()
    print(json.dumps({"peak_mib": peak_mib()}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        begin = time.perf_counter()
        answer = run(order)
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "peak_mib": peak_mib(), **answer}), file=answers, flush=True)


def peak_mib(pid: int | str = "self") -> float:
    """Most memory that the process has had resident since it was last asked; asking forgets it."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak / 1024


def absent(package: str, folder: Path) -> str:
    """Why a package cannot be imported with a folder of peers behind everything else; empty where it can."""
    code = f"import sys; sys.path.append({str(folder)!r}); import {package}"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""
