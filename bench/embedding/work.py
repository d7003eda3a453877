"""Contenders that load a file, then work on it: a process each, which may take too long or run out of memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from bench.embedding.setup import MODULE, Report, Setup
from bench.peers import Peer, started
from bench.results import Ratio, ratio


@dataclass(frozen=True)
class Timed:
    """One piece of work; with `ended`, it was not finished and that is why."""

    seconds: float
    extra_mib: float
    answer: dict[str, Any]
    ended: str = ""


class Worker:
    """A process of `bench.embedding.contenders` with its data."""

    def __init__(self, peer: Peer, patience: float) -> None:
        self._peer = peer
        self._patience = patience

    def ask(self, **order: object) -> Timed:
        """Asks, and takes it calmly where the process gives up, runs out of memory or dies of it."""
        begin = time.perf_counter()
        try:
            answer = self._peer.ask(order)
        except SystemExit as death:
            by_alarm = f"ended with -{signal.SIGALRM.value};" in str(death)
            why = f"longer than {self._patience:g} s" if by_alarm else f"died: {death}"
            return Timed(time.perf_counter() - begin, float("nan"), {}, why)
        ended = ""
        if "stopped" in answer:
            ended = f"longer than {self._patience:g} s"
        elif "failed" in answer:
            ended = answer["failed"]
        return Timed(answer["seconds"], answer["peak_mib"] - self._peer.at_rest_mib, answer, ended)


@contextmanager
def worker(setup: Setup, name: str, patience: float = 0.0) -> Iterator[Worker]:
    """Started, without data, with as much patience for each order, 0 being any. Allocations fail before the machine
    runs out of memory."""
    memory = int(0.9 * psutil.virtual_memory().available) >> 20
    arguments = [name, "--patience", str(patience), "--memory-mib", str(memory), "--peers-dir", str(setup.peers_dir)]
    with started(MODULE, *arguments) as peer:
        yield Worker(peer, patience)


def finished(contender: str, one: Timed) -> Timed:
    """The same. Raises SystemExit where it was not finished."""
    if one.ended:
        raise SystemExit(f"{contender}: {one.ended}")
    return one


def tell(report: Report, name: str, timed: dict[str, list[Timed]]) -> None:
    """Time and memory of those that came to an end."""
    for contender, turns in timed.items():
        if turns and not turns[0].ended:
            report.add(name, contender, "time", "s", [one.seconds for one in turns])
            report.add(name, contender, "extra memory", "MiB", [one.extra_mib for one in turns])


def faster(ours: Sequence[Timed], peer: Sequence[Timed]) -> Ratio:
    """How many times as fast ours is, over the turns that both had."""
    both = min(len(ours), len(peer))
    return ratio([1 / one.seconds for one in ours[:both]], [1 / one.seconds for one in peer[:both]])
