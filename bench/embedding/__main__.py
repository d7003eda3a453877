"""The embedding service against its peers: vectors of samples, their neighbours, and the choice of a core set.

    embed                   the user's text to its mean last hidden state, end to end over gRPC, against transformers
                            in the way of sentence-transformers; and what reading the neurons' activations costs
    neighbors               the two nearest of every vector, exactly, against one dense matrix of cosines
    neighbors-approximate   the same at a recall of 0.95, against LanceDB's own index
    selection               15% by log-coverage of features, against apricot-select and submodlib

Every contender is a process of its own. In the first two parts all are started before the first turn and wait; in the
others they come one after the other, for the data of two at a time would not fit. `embed` reads samples, and no turn
repeats one; the other parts take made-up numbers, the same for all. Memory is what a process has resident at its peak
while it works, above what it had when it was ready, its own form of the data included.

apricot-select and submodlib are no dependencies of this project: the bench looks for them in `--peers-dir` and says
how to put them there. A contender that takes longer than `--patience` is stopped and reported as that.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.embedding.data import DIMENSION
from bench.embedding.neighbors import neighbors, neighbors_approximate
from bench.embedding.selection import selection
from bench.embedding.setup import Report, Setup, Size
from bench.embedding.vectors import embed
from bench.results import table, write
from bench.scoring_data import SOURCES

# On 6,000 rows peers come to an end with exact greedy, too.
SIZES = {
    "small": Size(48, 3, 52_000, 200_000, (6_000, 52_000, 200_000), 60.0, 300.0),
    "full": Size(128, 4, 52_000, 1_000_000, (6_000, 52_000, 1_000_000), 240.0, 900.0),
}
PARTS: dict[str, Callable[[Setup, Report], None]] = {
    "embed": embed,
    "neighbors": neighbors,
    "neighbors-approximate": neighbors_approximate,
    "selection": selection,
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--data", nargs="+", choices=sorted(SOURCES), default=None, help="default: all that are here")
    parser.add_argument("--eager", action="store_true", help="not compiled; as where there is no C++ compiler")
    parser.add_argument("--peers-dir", type=Path, default=Path("build/peers"), help="where peers were installed")
    parser.add_argument("--indexes", nargs="*", default=["ivf_pq", "ivf_hnsw_sq"], help="LanceDB's; also ivf_flat")
    parser.add_argument("--patience", type=float, help="seconds after which a selection is stopped")
    parser.add_argument("--index-patience", type=float, help="seconds after which LanceDB's index is")
    parser.add_argument("--samples", type=int, help="of each data set in a turn")
    parser.add_argument("--rows", type=int, nargs="+", help="of all made-up data; several are for selection alone")
    parser.add_argument("--turns", type=int)
    return parser.parse_args()


def sized(given: argparse.Namespace) -> Size:
    """The size, with what was said otherwise."""
    size = SIZES[given.size]
    if given.rows:
        first = given.rows[0]
        size = replace(size, exact_rows=first, approximate_rows=first, selection_rows=tuple(given.rows))
    other = {key: getattr(given, key) for key in ("patience", "index_patience", "samples", "turns")}
    return replace(size, **{key: value for key, value in other.items() if value is not None})


def main() -> None:
    """See the module."""
    given = arguments()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            size=sized(given),
            model=given.model.resolve(),
            compiled=not given.eager and shutil.which("g++") is not None,
            data=given.data or [name for name, path in SOURCES.items() if path.exists()],
            peers_dir=given.peers_dir.resolve(),
            indexes=given.indexes,
            folder=Path(folder),
        )
        for name in given.parts:
            begin = time.perf_counter()
            try:
                PARTS[name](setup, report)
            except SystemExit as failure:  # the other parts still have something to say
                report.problems.append(f"{name}: {failure}")
            report.notes.setdefault("seconds", {})[name] = time.perf_counter() - begin
    print(table(report.results, report.ratios), *report.problems, sep="\n", file=sys.stderr)
    notes = {"parts": given.parts, "compiled": setup.compiled, "dimension": DIMENSION, **report.notes}
    write("embedding", report.results, report.ratios, notes)
    if report.problems:
        raise SystemExit("; ".join(report.problems))


if __name__ == "__main__":
    main()
