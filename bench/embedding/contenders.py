"""The contenders of the embedding bench, each a process of its own that does nothing while others are timed.

`python -m bench.embedding.contenders NAME …`. `transformers` takes orders `{"texts": …}`. All others begin with
`{"load": FILE}`, which makes of a file what they need, and then take orders to work on it; what they find goes to the
file `out`. An order that takes longer than `--patience` seconds is given up: with an answer where the contender can
still give one, else by the end of the process (see `bench.embedding`).
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.embedding.data import DIMENSION, LAYERS, NUM_FEATURES, PER_LAYER, WIDTH, Floats, Rows, numbered, recall
from bench.peers import serve

Order = dict[str, Any]
_LAST_SECONDS = 60  # for a contender that was told to give up and does not
_PIECE = 20_000


class OutOfPatienceError(Exception):
    """An order took too long."""


def _give_up(number: int, frame: object) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_LAST_SECONDS)
    raise OutOfPatienceError


class Contender(ABC):
    """Loads a file once, then works on it."""

    # Whether Python gets a word in while it works, so that it can still say how far it came.
    interruptible = True

    @abstractmethod
    def load(self, path: str) -> None:
        """Makes of the file what the work needs."""

    @abstractmethod
    def work(self, order: Order) -> Order:
        """What is timed."""

    def progress(self) -> Order:
        """How far it had come when it was given up."""
        return {}


def orders(contender: Contender, patience: float) -> Callable[[Order], Order]:
    """How a contender answers. Given up: `{"stopped": …}`; out of memory: `{"failed": …}`."""

    def run(order: Order) -> Order:
        signal.signal(signal.SIGALRM, _give_up if contender.interruptible else signal.SIG_DFL)
        try:
            signal.setitimer(signal.ITIMER_REAL, patience)
            if "load" in order:
                contender.load(order["load"])
                return {}
            return contender.work(order)
        except OutOfPatienceError:
            return {"stopped": contender.progress()}
        except MemoryError as error:
            return {"failed": f"out of memory: {error}"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return run


def transformers(model: str, batch: int) -> Callable[[Order], Order]:
    """As sentence-transformers does it: longest first, padded batches, the mean over what is not padding. Tokenizing
    is part of it, as it is of ours."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="right")
    net = AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def run(order: Order) -> Order:
        texts = order["texts"]
        longest_first = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors: list[list[float]] = [[]] * len(texts)
        tokens = [0] * len(texts)
        for start in range(0, len(texts), batch):
            part = longest_first[start : start + batch]
            encoded = tokenizer([texts[index] for index in part], padding=True, return_tensors="pt")
            mask = encoded["attention_mask"]
            hidden = net(input_ids=encoded["input_ids"], attention_mask=mask).last_hidden_state.float()
            means = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            for index, mean, count in zip(part, means.tolist(), mask.sum(1).tolist(), strict=True):
                vectors[index], tokens[index] = mean, count
        return {"vectors": vectors, "tokens": tokens}

    return run


class OnVectors(Contender):
    """Has (n, 576) float32."""

    vectors: Floats

    def load(self, path: str) -> None:
        self.vectors = np.load(path)


class OwnNeighbors(OnVectors):
    """`nearest_neighbors`, exact or, where the order names a recall, in the nearest cells alone."""

    def __init__(self) -> None:
        from burnish_services.embedding.neighbors import nearest_neighbors

        self._search = nearest_neighbors

    def work(self, order: Order) -> Order:
        vectors = self.vectors[: order.get("rows")]
        if "recall" not in order:
            np.save(order["out"], self._search(vectors, 2).means)
            return {}
        found = self._search(vectors, 2, recall=order["recall"])
        np.save(order["out"], found.indices)
        return {"search": asdict(found.search)}


class DenseNeighbors(OnVectors):
    """All cosines in one matrix, as published scripts have it."""

    def __init__(self) -> None:
        import torch

        self._torch = torch

    def work(self, order: Order) -> Order:
        torch = self._torch
        vectors = torch.nn.functional.normalize(torch.from_numpy(self.vectors[: order.get("rows")]))
        cosines = vectors @ vectors.T
        cosines.fill_diagonal_(-1.0)
        np.save(order["out"], cosines.topk(2).values.mean(dim=1).numpy())
        return {}


class LanceNeighbors(OnVectors):
    """LanceDB's own index, built as its documentation says for this number of rows, and asked for many at once."""

    _TOGETHER = 100  # vectors of a query
    _REFINE = (1, 10, 50)  # times as many candidates as wanted, scored anew from the vectors

    def __init__(self) -> None:
        import lancedb

        self._connect = lancedb.connect
        self._folder = Path()
        self._table: Any = None

    def load(self, path: str) -> None:
        super().load(path)
        # Beside the data, so that what is left of a contender that was stopped goes with it.
        self._folder = Path(path).parent / "lancedb"

    def work(self, order: Order) -> Order:
        if "build" in order:
            return self._build(order["build"])
        queries = np.load(order["queries"])
        if "choose" in order:
            return self._choose(queries, np.load(order["exact"]), **order["choose"])
        np.save(order["out"], self._ask(queries, order["num_probes"], order["refine_factor"]))
        return {}

    def _build(self, kind: str) -> Order:
        import pyarrow as pa
        from lancedb.index import HnswSq, IvfFlat, IvfPq

        rows = len(self.vectors)
        cells = max(rows // 4096, 1)
        config = {
            "ivf_pq": IvfPq("cosine", num_partitions=cells, num_sub_vectors=DIMENSION // 8),
            "ivf_flat": IvfFlat("cosine", num_partitions=cells),
            "ivf_hnsw_sq": HnswSq("cosine", num_partitions=max(rows // 1_048_576, 1), ef_construction=150),
        }[kind]
        begin = time.perf_counter()
        column = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.reshape(-1)), DIMENSION)
        content = pa.table({"id": np.arange(rows), "vector": column})
        self._table = self._connect(self._folder).create_table("vectors", content, mode="overwrite")
        written = time.perf_counter()
        self._table.create_index("vector", config=config)
        return {"write_seconds": written - begin, "index_seconds": time.perf_counter() - written}

    def _choose(self, queries: Rows, exact: Rows, num_probes: list[int], least: float) -> Order:
        """The fewest cells, and then the least refining, that find enough; the most, where nothing does."""
        tried: Order = {}
        for probes in num_probes:
            for refine in self._REFINE:
                found = recall(self._ask(queries, probes, refine), exact)
                tried = {"num_probes": probes, "refine_factor": refine, "recall_when_chosen": found}
                if found >= least:
                    return tried
        return tried

    def _ask(self, queries: Rows, num_probes: int, refine_factor: int) -> Rows:
        """The two nearest of each query, which is among its own neighbours; -1 where fewer were found."""
        found = np.full((len(queries), 2), -1, np.intp)
        for start in range(0, len(queries), self._TOGETHER):
            part = queries[start : start + self._TOGETHER]
            query = self._table.search(self.vectors[part]).distance_type("cosine").nprobes(num_probes).limit(3)
            if refine_factor > 1:
                query = query.refine_factor(refine_factor)
            answer = (
                query.select(["id", "_distance"])
                .to_arrow()
                .sort_by([("query_index", "ascending"), ("_distance", "ascending")])
            )
            places = np.zeros(len(part), np.intp)
            for place, row in zip(answer["query_index"].to_pylist(), answer["id"].to_pylist(), strict=True):
                if row != part[place] and places[place] < 2:
                    found[start + place, places[place]] = row
                    places[place] += 1
        return found


class OwnSelection(Contender):
    """As the service selects, from the packed features that it stores."""

    def __init__(self) -> None:
        few = np.tile(np.arange(4)[:, None] + np.arange(PER_LAYER), (1, LAYERS)).astype(np.uint16)
        for optimizer in ("lazy", "stochastic"):  # compiles
            self._select(few, optimizer, 2)
        self._packed = few

    def load(self, path: str) -> None:
        self._packed = np.load(path)

    def work(self, order: Order) -> Order:
        np.save(order["out"], self._select(self._packed, order["optimizer"], order["picks"]))
        return {}

    @staticmethod
    def _select(packed: NDArray[np.uint16], optimizer: str, picks: int) -> Rows:
        from burnish_services.embedding.coverage import greedy
        from burnish_services.embedding.coverage.features import FeatureRows
        from burnish_services.embedding.coverage.objectives import FeatureCoverage

        objective = FeatureCoverage(FeatureRows.packed(packed, num_layers=LAYERS, width=WIDTH))
        if optimizer == "lazy":
            return greedy.lazy(objective, picks).rows
        return greedy.stochastic(objective, picks).rows


class Apricot(Contender):
    """apricot-select on a sparse matrix. It compiles its loops anew for each selection, which is in the time.

    Released, it keeps all selected rows as dense float64, copies them for each pick and never reads them; `trimmed`,
    that is off. Its stochastic optimizer's epsilon is 0.9 by default, which at 15% is random choice: it gets ours.
    """

    def __init__(self, trimmed: bool) -> None:
        import apricot  # type: ignore[import-not-found, unused-ignore]

        self._package = apricot
        self._trimmed = trimmed
        self._matrix: Any = None
        self._selector: Any = None

    def load(self, path: str) -> None:
        from scipy.sparse import csr_matrix

        packed = np.load(path, mmap_mode="r")
        indices = np.empty(packed.shape, np.int32)
        for start in range(0, len(packed), _PIECE):
            indices[start : start + _PIECE] = numbered(packed[start : start + _PIECE])
        starts = np.arange(len(packed) + 1, dtype=np.int32) * packed.shape[1]
        self._matrix = csr_matrix((np.ones(packed.size), indices.ravel(), starts), (len(packed), NUM_FEATURES))

    def work(self, order: Order) -> Order:
        optimizer = order["optimizer"]
        self._selector = self._package.FeatureBasedSelection(
            order["picks"],
            "log",
            optimizer=optimizer,
            optimizer_kwds={"epsilon": 0.05} if optimizer == "stochastic" else {},
            random_state=0,
        )
        if self._trimmed:
            self._selector.metric = "precomputed"
        self._selector.fit(self._matrix)
        np.save(order["out"], self._selector.ranking.astype(np.intp))
        return {}

    def progress(self) -> Order:
        return {"picks": len(self._selector.ranking or ())}


class Submodlib(Contender):
    """submodlib-py's compiled FeatureBased with logarithms, without the Python class before it: that one fails on
    sparse features, which it hands to a scaler of dense ones, and dense ones would be 1.8 MB a row."""

    interruptible = False  # it works to the end without a look at Python

    def __init__(self) -> None:
        import submodlib_cpp  # type: ignore[import-not-found, unused-ignore]

        self._package = submodlib_cpp
        self._function: Any = None

    def load(self, path: str) -> None:
        packed = np.load(path, mmap_mode="r")
        pairs = [(feature, 1.0) for feature in range(NUM_FEATURES)]
        rows = []
        for start in range(0, len(packed), _PIECE):
            rows += [[pairs[one] for one in row] for row in numbered(packed[start : start + _PIECE]).tolist()]
        kind = self._package.FeatureBased
        self._function = kind(len(rows), kind.logarithmic, rows, NUM_FEATURES, [1.0] * NUM_FEATURES)

    def work(self, order: Order) -> Order:
        optimizer = {"lazy": "LazyGreedy", "stochastic": "StochasticGreedy"}[order["optimizer"]]
        # Stop at no gain, stop at a loss, epsilon, talk, show progress, costs, by cost.
        picked = self._function.maximize(optimizer, order["picks"], False, False, 0.05, False, False, [], False)
        np.save(order["out"], np.array([row for row, _ in picked], np.intp))
        return {}


CONTENDERS: dict[str, Callable[[], Contender]] = {
    "neighbors": OwnNeighbors,
    "dense": DenseNeighbors,
    "lancedb": LanceNeighbors,
    "selection": OwnSelection,
    "apricot": lambda: Apricot(trimmed=False),
    "apricot-trimmed": lambda: Apricot(trimmed=True),
    "submodlib": Submodlib,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["transformers", *CONTENDERS])
    parser.add_argument("--model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patience", type=float, default=0.0, help="seconds for an order; 0: any number")
    parser.add_argument("--memory-mib", type=int, help="beyond which an allocation fails, before the machine does")
    parser.add_argument("--peers-dir", type=Path)
    given = parser.parse_args()
    if given.peers_dir is not None:
        sys.path.append(str(given.peers_dir))
    if given.memory_mib is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (given.memory_mib << 20, given.memory_mib << 20))

    def prepare() -> Callable[[Order], Order]:
        if given.name == "transformers":
            return transformers(given.model, given.batch)
        contender = CONTENDERS[given.name]()
        return orders(contender, given.patience)

    serve(prepare)


if __name__ == "__main__":
    main()
