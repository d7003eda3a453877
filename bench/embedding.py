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
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from bench.embedding_data import (
    DIMENSION,
    Floats,
    cosine_distances,
    coverage,
    exact_neighbors,
    random_coverage,
    recall,
    write_features,
    write_vectors,
)
from bench.peers import Peer, peak_mib, started
from bench.results import Ratio, Result, ratio, result, table, write
from bench.scoring_data import SOURCES, Workload, workload
from burnish import ActivationSettings, Client, FeatureRule, FeatureSettings, TokenSpan
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.hf_tokenizer import HfTokenizer

OURS = "burnish"
MODULE = "bench.embedding_contenders"
CONTEXT = 2048
# Two roundings to bfloat16 of the same thing; more would mean that something else was computed.
AGREEMENT = 0.02
MEANS_AGREEMENT = 1e-5
RECALL = 0.95
NUM_PROBES = [5, 10, 20, 40, 80]
QUERIES, CHOOSING = 1000, 200  # rows that recall and speed are measured on; others that settings are chosen on
SHARE = 0.15  # of the rows that is selected
INSTALL = (
    "{python} -m pip install --no-deps --target {folder} apricot-select==0.6.1 scikit-learn==1.7.2 joblib "
    "threadpoolctl submodlib-py==0.0.3"
)


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    samples: int  # of each data set in a turn
    turns: int
    exact_rows: int
    approximate_rows: int
    selection_rows: tuple[int, ...]
    patience: float  # seconds for a selection
    index_patience: float  # seconds for LanceDB's index


# On 6,000 rows peers come to an end with exact greedy, too.
SIZES = {
    "small": Size(48, 3, 52_000, 200_000, (6_000, 52_000, 200_000), 60.0, 300.0),
    "full": Size(128, 4, 52_000, 1_000_000, (6_000, 52_000, 1_000_000), 240.0, 900.0),
}
TRIMMED = (
    "with metric='precomputed', which alone keeps it from collecting all selected rows as dense float64, copied for "
    "each pick and never read"
)
LAZY_UP_TO = 100_000  # rows, as the service has it by default


@dataclass(frozen=True)
class Setup:
    """What was asked for."""

    size: Size
    model: Path
    compiled: bool
    data: Sequence[str]
    peers_dir: Path
    indexes: Sequence[str]
    folder: Path  # for the data, removed in the end


@dataclass
class Report:
    """What was found so far."""

    results: list[Result] = field(default_factory=list)
    ratios: dict[str, Ratio] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # for which the bench fails in the end

    def add(self, dataset: str, contender: str, quantity: str, unit: str, values: Sequence[float]) -> None:
        """One measured quantity, over the turns."""
        self.results.append(result(dataset, contender, quantity, unit, values))

    def note(self, part: str, dataset: str, **what: object) -> None:
        """Whatever else is to be known of a data set."""
        self.notes.setdefault(part, {}).setdefault(dataset, {}).update(what)


def say(*words: object) -> None:
    """Progress."""
    print(*words, file=sys.stderr, flush=True)


# --- embed ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Embedded:
    """One turn."""

    seconds: float
    extra_mib: float
    tokens: list[int]  # of each sample
    vectors: Floats


class Embedder(Protocol):
    """Embeds a workload when asked, and sleeps otherwise."""

    def turn(self, work: Workload) -> Embedded: ...


class Transformers:
    """A process of `transformers`."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def turn(self, work: Workload) -> Embedded:
        answer = self._peer.ask({"texts": [sample.user_text for sample in work.samples]})
        extra = answer["peak_mib"] - self._peer.at_rest_mib
        return Embedded(answer["seconds"], extra, answer["tokens"], np.array(answer["vectors"], np.float32))


class Service:
    """The embedding service, by the SDK: a collection of its own for each data set."""

    def __init__(self, client: Client, model: Path, source: TokenSpan, features: FeatureSettings | None) -> None:
        self._client = client
        self._model = str(model)
        self._source = source
        self._features = features
        self._processes = psutil.Process().children(recursive=True)
        self._at_rest = self._peak()

    def _peak(self) -> float:
        return sum(peak_mib(process.pid) for process in self._processes if process.is_running())

    def turn(self, work: Workload) -> Embedded:
        name = f"{work.name}-{self._source}-{'features' if self._features else 'vectors'}"
        self._client.embedding.create_collection(name, source=self._source, features=self._features)
        self._peak()
        begin = time.perf_counter()
        batch = self._client.embedding.embed(work.samples, model=self._model, collection=name)
        seconds = time.perf_counter() - begin
        extra = self._peak() - self._at_rest
        failed = [one for one in batch.embeddings if not one.status.ok]
        if failed:
            raise SystemExit(f"{len(failed)} samples failed, the first with {failed[0].status}")
        # They are stored by now: nothing is embedded again.
        again = self._client.embedding.embed(work.samples, model=self._model, collection=name, return_vectors=True)
        vectors = np.stack([one.vector for one in again.embeddings if one.vector is not None])
        return Embedded(seconds, extra, [one.num_tokens for one in batch.embeddings], vectors)


@contextmanager
def embedders(setup: Setup) -> Iterator[dict[str, Embedder]]:
    """All of them started; ours first, so that its processes are our only children when they are counted."""
    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        options = EngineOptions(dtype="bfloat16", max_model_len=CONTEXT, compile=setup.compiled)
        services = LocalServices(["embedding"], state_dir=state, model=setup.model, engine="vllm", options=options)
        client = stack.enter_context(Client(stack.enter_context(services).endpoints))
        # All tokens of the conversation, and no fewer than without features.
        activations = ActivationSettings(source=TokenSpan.ALL, max_tokens=CONTEXT)
        features = FeatureSettings(rule=FeatureRule.TOP_K, activations=activations)
        found: dict[str, Embedder] = {
            OURS: Service(client, setup.model, TokenSpan.USER, None),
            "conversation": Service(client, setup.model, TokenSpan.ALL, None),
            "with features": Service(client, setup.model, TokenSpan.ALL, features),
        }
        for name, batch in (("padded by 32", 32), ("one by one", 1)):
            arguments = ["transformers", "--model", str(setup.model), "--batch", str(batch)]
            found[name] = Transformers(stack.enter_context(started(MODULE, *arguments)))
        yield found


def embed(setup: Setup, report: Report) -> None:
    """Samples per second, and that all embed the same."""
    tokenizer = HfTokenizer(setup.model)
    count = setup.size.samples * (setup.size.turns + 1)
    works = [workload(name, tokenizer, count, CONTEXT) for name in setup.data]
    with embedders(setup) as running:
        for work in works:
            embed_one(work, running, setup.size.turns, report)


def embed_one(work: Workload, running: dict[str, Embedder], turns: int, report: Report) -> None:
    """Turns in which each embeds a part of the workload that nobody has seen, after one that warms up."""
    timed: dict[str, list[Embedded]] = {name: [] for name in running}
    for turn in range(turns + 1):
        part = work.part(turn, turns + 1)
        for name, contender in running.items():
            one = contender.turn(part)
            say(f"embed {work.name} {name}: {len(part.samples) / one.seconds:.2f} samples per second")
            timed[name].append(one)
    furthest = {name: disagreement(timed[OURS], timed[name]) for name in ("padded by 32", "one by one")}
    report.note("embed", work.name, largest_cosine_distance=furthest)
    for name, distance in furthest.items():
        if not distance <= AGREEMENT:
            report.problems.append(f"{work.name}: vectors of {name} are up to {distance:.3f} from ours by cosine")
    rates = {name: [len(one.tokens) / one.seconds for one in all_turns[1:]] for name, all_turns in timed.items()}
    for name, (_, *later) in timed.items():
        report.add(work.name, name, "samples", "per second", rates[name])
        report.add(work.name, name, "tokens", "per second", [sum(one.tokens) / one.seconds for one in later])
        report.add(work.name, name, "extra memory", "MiB", [one.extra_mib for one in later])
    for name in furthest:
        report.ratios[f"{work.name}: {OURS} / {name}"] = ratio(rates[OURS], rates[name])
    with_and_without = ratio(rates["with features"], rates["conversation"])
    report.ratios[f"{work.name}: with features / without"] = with_and_without


def disagreement(ours: Sequence[Embedded], theirs: Sequence[Embedded]) -> float:
    """The largest cosine distance of a sample's two vectors; infinite where they are not of the same tokens."""
    if any(a.tokens != b.tokens for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    distances = [cosine_distances(a.vectors, b.vectors).max() for a, b in zip(ours, theirs, strict=True)]
    return float(max(distances))


# --- contenders that load a file, then work on it ------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """One piece of work; with `ended`, it was not finished and that is why."""

    seconds: float
    extra_mib: float
    answer: dict[str, Any]
    ended: str = ""


class Worker:
    """A process of `bench.embedding_contenders` with its data."""

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


# --- neighbors -----------------------------------------------------------------------------------------------------


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


# --- neighbors-approximate -----------------------------------------------------------------------------------------


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
        peer = by_lancedb(setup, report, name, path, sample, kind)
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


def by_lancedb(setup: Setup, report: Report, name: str, path: Path, sample: Queries, kind: str) -> float | None:
    """Seconds for all rows, extrapolated; None where it did not come to an end."""
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
            report.note("neighbors-approximate", name, **{contender: {"index": built.ended}})
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


# --- selection -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selector:
    """A contender with an optimizer."""

    name: str
    kind: str
    optimizer: str
    package: str = ""  # that must be in --peers-dir


SELECTORS = (
    Selector("burnish lazy", "selection", "lazy"),
    Selector("burnish stochastic", "selection", "stochastic"),
    Selector("submodlib lazy", "submodlib", "lazy", "submodlib_cpp"),
    Selector("submodlib stochastic", "submodlib", "stochastic", "submodlib_cpp"),
    Selector("apricot lazy, trimmed", "apricot-trimmed", "lazy", "apricot"),
    Selector("apricot stochastic, trimmed", "apricot-trimmed", "stochastic", "apricot"),
    Selector("apricot lazy", "apricot", "lazy", "apricot"),
)


def selection(setup: Setup, report: Report) -> None:
    """15% of the rows, by each that is there."""
    why = {package: absent(package, setup.peers_dir) for package in {one.package for one in SELECTORS} - {""}}
    missing = {package: reason for package, reason in why.items() if reason}
    if missing:
        command = INSTALL.format(python=sys.executable, folder=setup.peers_dir)
        report.notes["absent"] = {"why": missing, "install": command}
        say(f"selection: without {', '.join(missing)}; {command}")
    if "apricot" not in missing:
        report.notes["trimmed"] = TRIMMED
    selectors = [one for one in SELECTORS if one.package not in missing]
    for rows in setup.size.selection_rows:
        path = setup.folder / "features.npy"
        write_features(path, rows)
        some = [one for one in selectors if one.optimizer != "lazy" or rows <= LAZY_UP_TO]
        ended = select_of(setup, report, path, rows, some)
        # What was too slow or too large once will be on more rows.
        selectors = [one for one in selectors if one.name not in ended]
        path.unlink()


def absent(package: str, folder: Path) -> str:
    """Why a peer cannot be imported; empty where it can."""
    code = f"import sys; sys.path.append({str(folder)!r}); import {package}"
    tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return tried.stderr.strip().splitlines()[-1] if tried.returncode else ""


def select_of(setup: Setup, report: Report, path: Path, rows: int, selectors: Sequence[Selector]) -> set[str]:
    """Turns in which each selects, one process after the other. Returns who did not come to an end."""
    name = f"{rows:,} rows"
    picks = int(SHARE * rows)
    timed: dict[str, list[Timed]] = {one.name: [] for one in selectors}
    for turn in range(setup.size.turns):
        for one in selectors:
            # A second turn of what took long or was stopped would say the same again.
            if turn == 0 or timed[one.name][0].seconds < setup.size.patience / 5:
                timed[one.name].append(select_once(setup, one, path, picks))
    report.note("selection", name, picks=picks)
    tell(report, name, timed)
    tell_coverage(report, name, setup, path, picks, timed)
    ended = {contender: turns[0] for contender, turns in timed.items() if turns[0].ended}
    if ended:
        said = {contender: {"ended": one.ended, **one.answer.get("stopped", {})} for contender, one in ended.items()}
        report.note("selection", name, not_finished=said)
    tell_ratios(report, name, timed)
    return set(ended)


def select_once(setup: Setup, one: Selector, path: Path, picks: int) -> Timed:
    """A process that loads and selects."""
    with worker(setup, one.kind, setup.size.patience) as running:
        loaded = running.ask(load=str(path))
        out = str(selected(setup, one.name))
        timed = loaded if loaded.ended else running.ask(optimizer=one.optimizer, picks=picks, out=out)
    say(f"selection {one.name}: {timed.ended or f'{timed.seconds:.2f} s'}")
    if one.kind == "selection":
        finished(one.name, timed)
    return timed


def selected(setup: Setup, contender: str) -> Path:
    """Where its selection is."""
    return setup.folder / f"{contender}.npy"


def tell_coverage(
    report: Report, name: str, setup: Setup, path: Path, picks: int, timed: dict[str, list[Timed]]
) -> None:
    """What the selections are worth, beside random ones and, where there is one, ours by lazy greedy."""
    packed = np.load(path, mmap_mode="r")
    chance = random_coverage(packed, picks)
    worth = {
        contender: coverage(packed, np.load(selected(setup, contender)))
        for contender, turns in timed.items()
        if not turns[0].ended
    }
    best = worth.get("burnish lazy")
    for contender, value in worth.items():
        report.add(name, contender, "objective", "Σ log(1+c)", [value])
        report.add(name, contender, "of random's", "%", [100 * value / chance])
        if best is not None:
            report.add(name, contender, "of lazy's", "%", [100 * value / best])
    report.note("selection", name, random_objective=chance)


def tell_ratios(report: Report, name: str, timed: dict[str, list[Timed]]) -> None:
    """Each peer beside ours with the same optimizer; a bound where the peer was stopped."""
    at_least = {}
    for contender, turns in timed.items():
        ours = "burnish lazy" if "lazy" in contender else "burnish stochastic"
        if contender.startswith("burnish"):
            continue
        if not turns[0].ended:
            report.ratios[f"{name}: {ours} / {contender}"] = faster(timed[ours], turns)
        elif turns[0].ended.startswith("longer"):
            at_least[f"{ours} / {contender}"] = turns[0].seconds / timed[ours][0].seconds
    if at_least:
        report.note("selection", name, ratio_at_least=at_least)


# --- all of it -----------------------------------------------------------------------------------------------------

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
