"""Parts `neighbors` and `neighbors-approximate`: the two nearest of every vector."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.embedding.data import exact_neighbors, recall, write_vectors
from bench.embedding.setup import OURS, Report, Setup, say
from bench.embedding.work import Timed, faster, finished, tell, worker
from bench.results import ratio

MEANS_AGREEMENT = 1e-5
RECALL = 0.95
NUM_PROBES = [5, 10, 20, 40, 80]
QUERIES, CHOOSING = 1000, 200  # rows that recall and speed are measured on; others that settings are chosen on


def neighbors(setup: Setup, report: Report) -> None:
    """Means of the two largest cosines of each row."""
    rows = setup.size.exact_rows
    name = f"{rows:,} vectors"
    path = setup.folder / "exact.npy"
    write_vectors(path, rows)
    needed, free = int(1.3 * 4 * rows * rows), psutil.virtual_memory().available
    contenders = {OURS: "neighbors", "dense": "dense"}
    if free < needed:
        why = f"{rows:,}² cosines need {needed / 2**30:.1f} GiB with some room, {free / 2**30:.1f} GiB are available"
        report.note("neighbors", name, skipped={"dense": why})
        say(f"neighbors: without the dense matrix, for {why}")
        del contenders["dense"]
    timed: dict[str, list[Timed]] = {contender: [] for contender in contenders}
    with ExitStack() as stack:
        running = {c: stack.enter_context(worker(setup, kind)) for c, kind in contenders.items()}
        for contender, one in running.items():
            finished(contender, one.ask(load=str(path)))
            finished(contender, one.ask(rows=4096, out=str(setup.folder / "warm.npy")))
        for _ in range(setup.size.turns):
            for contender, one in running.items():
                timed[contender].append(one.ask(out=str(setup.folder / f"{contender}.npy")))
                finished(contender, timed[contender][-1])
                say(f"neighbors {contender}: {timed[contender][-1].seconds:.1f} s")
    tell(report, name, timed)
    if "dense" in timed:
        report.ratios[f"{name}: {OURS} / dense"] = faster(timed[OURS], timed["dense"])
        means = [np.load(setup.folder / f"{contender}.npy") for contender in contenders]
        distance = float(np.abs(means[0] - means[1]).max())
        report.note("neighbors", name, largest_difference_of_means=distance)
        if not distance <= MEANS_AGREEMENT:
            report.problems.append(f"{name}: mean cosines differ by up to {distance:.2g}")
    path.unlink()


def neighbors_approximate(setup: Setup, report: Report) -> None:
    """All rows by ours; by LanceDB a sample, from which the time for all follows."""
    rows = setup.size.approximate_rows
    name = f"{rows:,} vectors"
    path = setup.folder / "approximate.npy"
    write_vectors(path, rows)
    vectors = np.load(path, mmap_mode="r")
    some = min(rows, QUERIES + CHOOSING)
    queries = np.random.default_rng(4).choice(rows, some, replace=False)
    exact = exact_neighbors(vectors, queries, 2)
    del vectors
    chosen_on = some * CHOOSING // (QUERIES + CHOOSING)
    sample = Queries(setup.folder, queries[:chosen_on], exact[:chosen_on], queries[chosen_on:], exact[chosen_on:])
    say(f"neighbors-approximate: {name} made")
    ours = by_ours(setup, report, name, path, sample)
    for kind in setup.indexes:
        peer = by_lancedb(setup, report, name, path, sample, kind, ours)
        if peer is not None:
            report.ratios[f"{name}: {OURS} / lancedb {kind}, extrapolated"] = ratio([1 / ours], [1 / peer])
    path.unlink()


@dataclass(frozen=True)
class Queries:
    """Rows with their true neighbours: some to choose settings on, others to measure on."""

    folder: Path
    choosing: NDArray[np.intp]
    choosing_exact: NDArray[np.intp]
    measuring: NDArray[np.intp]
    measuring_exact: NDArray[np.intp]

    def saved(self, name: str, array: NDArray[Any]) -> str:
        """The array as a file."""
        path = self.folder / f"{name}.npy"
        np.save(path, array)
        return str(path)


def by_ours(setup: Setup, report: Report, name: str, path: Path, sample: Queries) -> float:
    """Seconds for all rows."""
    out = setup.folder / "found.npy"
    with worker(setup, "neighbors") as one:
        finished(OURS, one.ask(load=str(path)))
        finished(OURS, one.ask(rows=4096, recall=RECALL, out=str(out)))
        timed = finished(OURS, one.ask(recall=RECALL, out=str(out)))
    found = recall(np.load(out)[sample.measuring], sample.measuring_exact)
    say(f"neighbors-approximate {OURS}: {timed.seconds:.1f} s, recall {found:.3f}, {timed.answer['search']}")
    tell(report, name, {OURS: [timed]})
    report.add(name, OURS, "recall", "%", [100 * found])
    report.note("neighbors-approximate", name, **{OURS: {"recall": found, "search": timed.answer["search"]}})
    return timed.seconds


def by_lancedb(
    setup: Setup, report: Report, name: str, path: Path, sample: Queries, kind: str, ours: float
) -> float | None:
    """Seconds for all rows, extrapolated; None where it did not come to an end, `ours` being what it is compared
    with."""
    contender = f"lancedb {kind}"
    out = setup.folder / "found.npy"
    queries = sample.saved("queries", sample.measuring)
    choosing = {"queries": sample.saved("choosing", sample.choosing)}
    choosing["exact"] = sample.saved("choosing-exact", sample.choosing_exact)
    with worker(setup, "lancedb", setup.size.index_patience) as one:
        finished(contender, one.ask(load=str(path)))
        built = one.ask(build=kind)
        say(f"neighbors-approximate {contender}: index {built.ended or f'{built.seconds:.1f} s'}")
        if built.ended:
            report.note(
                "neighbors-approximate",
                name,
                **{contender: {"index": built.ended, "ratio_at_least": built.seconds / ours}},
            )
            return None
        chosen = one.ask(choose={"num_probes": NUM_PROBES, "least": RECALL}, **choosing)
        settings = {key: chosen.answer[key] for key in ("num_probes", "refine_factor")} if not chosen.ended else {}
        asked = one.ask(queries=queries, out=str(out), **settings) if settings else chosen
    if asked.ended:
        report.note("neighbors-approximate", name, **{contender: {"queries": asked.ended}})
        return None
    found = recall(np.load(out), sample.measuring_exact)
    per_second = len(sample.measuring) / asked.seconds
    total = built.seconds + setup.size.approximate_rows / per_second
    say(f"neighbors-approximate {contender}: {per_second:.0f} queries per second, recall {found:.3f}, {settings}")
    report.add(name, contender, "time, extrapolated", "s", [total])
    report.add(name, contender, "extra memory", "MiB", [max(built.extra_mib, asked.extra_mib)])
    report.add(name, contender, "recall", "%", [100 * found])
    about = {
        "extrapolated": f"write and index, then all rows at the queries per second of {len(sample.measuring)}",
        "queries_per_second": per_second,
        "recall": found,
        "write_seconds": built.answer["write_seconds"],
        "index_seconds": built.answer["index_seconds"],
        **{key: chosen.answer[key] for key in ("num_probes", "refine_factor", "recall_when_chosen")},
    }
    report.note("neighbors-approximate", name, **{contender: about})
    return total
