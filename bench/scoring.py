"""Scoring given responses: our service over gRPC against vLLM's own way, a transformers loop, and bare prefill.

Every contender has the same samples and cores, its process started and warmed up before the first turn, and waits idle
while others have theirs. No turn repeats a sample, for what was read once may be in a cache. Ours is timed end to end:
conversations in, over gRPC, scores out. `prefill` scores nothing; it is the floor that any scoring on this engine
stands on. Memory is what a process has resident at its peak while it scores, above what it had when it was ready.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from bench.peers import Peer, peak_mib, started
from bench.results import Ratio, Result, ratio, result, table, write
from bench.scoring_data import SOURCES, Workload, workload
from burnish import Client
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.hf_tokenizer import HfTokenizer

OURS = "burnish"
PEERS = ("prompt_logprobs", "transformers", "prefill")
CONTEXT = 2048
SIZES = {"small": (96, 3), "full": (512, 5)}  # samples of each data set in a turn, turns
# A response of one token in bfloat16; more would mean that someone scores other tokens.
AGREEMENT = 0.5


@dataclass(frozen=True)
class Timed:
    """One turn: seconds, peak memory above that at rest in MiB, mean loss of each sample in nats."""

    seconds: float
    extra_mib: float
    means: list[float]


class Contender(Protocol):
    """Scores a workload when asked, and sleeps otherwise."""

    def turn(self, work: Workload) -> Timed: ...


class Other:
    """A process of `bench.scoring_contenders`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def turn(self, work: Workload) -> Timed:
        answer = self._peer.ask({"sequences": work.sequences})
        return Timed(answer["seconds"], answer["peak_mib"] - self._peer.at_rest_mib, answer["means"])


class Ours:
    """The scoring service, by the SDK."""

    def __init__(self, client: Client, model: Path) -> None:
        self._client = client
        self._model = model
        self._processes = psutil.Process().children(recursive=True)
        self._at_rest = self._peak()

    def _peak(self) -> float:
        return sum(peak_mib(process.pid) for process in self._processes if process.is_running())

    def turn(self, work: Workload) -> Timed:
        begin = time.perf_counter()
        batch = self._client.scoring.score(work.samples, model=str(self._model))
        seconds = time.perf_counter() - begin
        return Timed(seconds, self._peak() - self._at_rest, [score.mean_nll or 0.0 for score in batch.scores])


@contextmanager
def contenders(model: Path, compiled: bool, peers: Sequence[str]) -> Iterator[dict[str, Contender]]:
    """All of them started; ours first, so that its processes are our only children when they are counted."""
    found: dict[str, Contender] = {}
    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        options = EngineOptions(dtype="bfloat16", max_model_len=CONTEXT, compile=compiled)
        services = LocalServices(["scoring"], state_dir=state, model=model, engine="vllm", options=options)
        endpoints = stack.enter_context(services).endpoints
        found[OURS] = Ours(stack.enter_context(Client(endpoints)), model)
        for name in peers:
            arguments = [name, "--model", str(model), "--context", str(CONTEXT), *(["--compile"] if compiled else [])]
            found[name] = Other(stack.enter_context(started("bench.scoring_contenders", *arguments)))
        yield found


def measure(
    running: dict[str, Contender], work: Workload, turns: int
) -> tuple[list[Result], dict[str, Ratio], dict[str, float]]:
    """Turns in which each contender scores a part of the workload that nobody has seen, after one that warms up. Also
    how far each peer's losses are from ours at most, nats."""
    timed: dict[str, list[tuple[Timed, Workload]]] = {name: [] for name in running}
    furthest: dict[str, float] = {}
    for turn in range(turns + 1):
        part = work.part(turn, turns + 1)
        means: dict[str, list[float]] = {}
        for name, contender in running.items():
            one = contender.turn(part)
            print(f"{work.name} {name}: {one.seconds:.1f} s", file=sys.stderr, flush=True)
            means[name] = one.means
            if turn > 0:
                timed[name].append((one, part))
        for name in means.keys() - {OURS, "prefill"}:
            distance = max(abs(a - b) for a, b in zip(means[OURS], means[name], strict=True))
            furthest[name] = max(furthest.get(name, 0.0), distance)
    results, rates = [], {}
    for name, all_turns in timed.items():
        rates[name] = [len(part.samples) / one.seconds for one, part in all_turns]
        per_second = [part.tokens / one.seconds for one, part in all_turns]
        responses = [part.response_tokens / one.seconds for one, part in all_turns]
        results += [
            result(work.name, name, "samples", "per second", rates[name]),
            result(work.name, name, "tokens", "per second", per_second),
            result(work.name, name, "response tokens", "per second", responses),
            result(work.name, name, "extra memory", "MiB", [one.extra_mib for one, _ in all_turns]),
        ]
    ratios = {f"{work.name}: {OURS} / {name}": ratio(rates[OURS], rates[name]) for name in running if name != OURS}
    return results, ratios, furthest


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--data", nargs="+", choices=sorted(SOURCES), default=None, help="default: all that are here")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--eager", action="store_true", help="not compiled; the default where there is no C++ compiler")
    given = parser.parse_args()
    count, turns = SIZES[given.size]
    compiled = not given.eager and shutil.which("g++") is not None
    names = given.data or [name for name, path in SOURCES.items() if path.exists()]
    tokenizer = HfTokenizer(given.model)
    works = [workload(name, tokenizer, count * (turns + 1), CONTEXT) for name in names]
    results: list[Result] = []
    ratios: dict[str, Ratio] = {}
    furthest = {}
    with contenders(given.model.resolve(), compiled, given.peers) as running:
        for work in works:
            some_results, some_ratios, furthest[work.name] = measure(running, work, turns)
            results += some_results
            ratios |= some_ratios
    print(table(results, ratios), f"largest difference from our losses, nats: {furthest}", sep="\n", file=sys.stderr)
    write("scoring", results, ratios, {"compiled": compiled, "largest_difference_nats": furthest})
    if any(found.get("transformers", 0.0) > AGREEMENT for found in furthest.values()):
        raise SystemExit(f"losses differ from transformers' by more than {AGREEMENT} nats: not the same was scored")


if __name__ == "__main__":
    main()
