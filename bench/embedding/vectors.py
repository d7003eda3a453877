"""Part `embed`: samples to vectors, and what reading the activations costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from bench.embedding.data import Floats, cosine_distances
from bench.embedding.setup import CONTEXT, MODULE, OURS, Report, Setup, say
from bench.peers import Peer, peak_mib, started
from bench.results import ratio
from bench.scoring_data import Workload, workload
from burnish import ActivationSettings, Client, FeatureRule, FeatureSettings, TokenSpan
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.hf_tokenizer import HfTokenizer

# Two roundings to bfloat16 of the same thing; more would mean that something else was computed.
AGREEMENT = 0.02


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


@dataclass(frozen=True)
class Server:
    """A running server of ours."""

    client: Client
    processes: Sequence[psutil.Process]


class Service:
    """The embedding service, by the SDK: a collection of its own for each data set."""

    def __init__(self, server: Server, model: Path, source: TokenSpan, features: FeatureSettings | None = None) -> None:
        self._client = server.client
        self._model = str(model)
        self._source = source
        self._features = features
        self._processes = server.processes
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
    """All of them started. Neurons are read in eager execution alone, so that there are two servers of ours."""
    with ExitStack() as stack:
        ours = server(stack, setup, setup.compiled)
        eager = server(stack, setup, False) if setup.compiled else ours
        # All tokens of the conversation, and no fewer than without features.
        activations = ActivationSettings(source=TokenSpan.ALL, max_tokens=CONTEXT)
        features = FeatureSettings(rule=FeatureRule.TOP_K, activations=activations)
        found: dict[str, Embedder] = {
            OURS: Service(ours, setup.model, TokenSpan.USER),
            "conversation": Service(ours, setup.model, TokenSpan.ALL),
            "conversation, eager": Service(eager, setup.model, TokenSpan.ALL),
            "with features, eager": Service(eager, setup.model, TokenSpan.ALL, features),
        }
        for name, batch in (("padded by 32", 32), ("one by one", 1)):
            arguments = ["transformers", "--model", str(setup.model), "--batch", str(batch)]
            found[name] = Transformers(stack.enter_context(started(MODULE, *arguments)))
        yield found


def server(stack: ExitStack, setup: Setup, compiled: bool) -> Server:
    """A server of ours, and the processes that came with it."""
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    state = stack.enter_context(tempfile.TemporaryDirectory())
    options = EngineOptions(dtype="bfloat16", max_model_len=CONTEXT, compile=compiled)
    services = LocalServices(["embedding"], state_dir=state, model=setup.model, engine="vllm", options=options)
    client = stack.enter_context(Client(stack.enter_context(services).endpoints))
    return Server(client, [one for one in psutil.Process().children(recursive=True) if one.pid not in before])


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
    for without in ("conversation, eager", "conversation"):
        compared = ratio(rates["with features, eager"], rates[without])
        report.ratios[f"{work.name}: with features, eager / {without}"] = compared


def disagreement(ours: Sequence[Embedded], theirs: Sequence[Embedded]) -> float:
    """The largest cosine distance of a sample's two vectors; infinite where they are not of the same tokens."""
    if any(a.tokens != b.tokens for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    distances = [cosine_distances(a.vectors, b.vectors).max() for a, b in zip(ours, theirs, strict=True)]
    return float(max(distances))
