"""A process that writes to a vector store without end, for `test_embedding_crash.py` to kill.

Every change is announced on standard output before it begins, as the state that it leads to, and again as done. The
state: for each collection that exists, the revision of each id.
"""

from __future__ import annotations

import json
import random
import sys
from hashlib import sha256

import numpy as np

from burnish_services.embedding.collection import EmbeddedText, TextRecord, Weights
from burnish_services.embedding.settings import Source
from burnish_services.embedding.store import VectorStore
from burnish_services.embedding.tables import Tables

State = dict[str, dict[str, int]]

DIMENSION = 48
WEIGHTS = Weights("/model", "sha256:1", "fake/1", "float32", "")
COMPACT_AFTER = 3


def text_of(item: str, revision: int) -> EmbeddedText:
    """What is stored for a revision of an id; the number of tokens tells the revision."""
    digest = sha256(f"{item} {revision}".encode()).hexdigest()
    vector = np.frombuffer(bytes.fromhex(digest) * (DIMENSION // 8), "<u4") % 1000
    return EmbeddedText(TextRecord(digest, revision + 1, False), vector.astype(np.float32))


def read_state(store: VectorStore) -> State:
    """What is in the store; fails where a vector is not that of its text, or an id is there twice."""
    state: State = {}
    for collection in store.page(100):
        _, ids, vectors = store.read(collection.name)
        _, records = store.find(collection.name, ids)
        assert len(ids) == collection.num_vectors == len(records)
        assert (collection.weights is None) == (collection.dimension == 0) == (not ids)
        assert collection.weights in (None, WEIGHTS)
        for item, vector in zip(ids, vectors, strict=True):
            expected = text_of(item, records[item].num_tokens - 1)
            assert records[item] == expected.record
            np.testing.assert_array_equal(vector, expected.vector)
        state[collection.name] = {item: record.num_tokens - 1 for item, record in records.items()}
    return state


def change(store: VectorStore, state: State, rng: random.Random) -> None:
    """Makes one change, and keeps `state` up with it."""
    name = rng.choice(["main", "main", "main", "side"])
    if name not in state:
        announce({**state, name: {}})
        store.create(name, Source.USER)
        state[name] = {}
    elif name == "side" and state[name] and rng.random() < 0.5:
        announce({other: rows for other, rows in state.items() if other != name})
        store.delete(name)
        del state[name]
    else:
        rows = state[name]
        batch = {f"{rng.getrandbits(64):016x}": 0 for _ in range(rng.randint(1, 40))}
        if rng.random() < 0.5:
            batch |= {item: rows[item] + 1 for item in rng.sample(sorted(rows), min(len(rows), 20))}
        announce({**state, name: {**rows, **batch}})
        store.put(name, WEIGHTS, {item: text_of(item, revision) for item, revision in batch.items()})
        rows |= batch
    say("done")


def announce(state: State) -> None:
    say("begin " + json.dumps(state))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    store = VectorStore(Tables(sys.argv[1], compact_after=COMPACT_AFTER))
    rng = random.Random(int(sys.argv[2]))
    state = read_state(store)
    announce(state)
    say("done")
    for _ in range(int(sys.argv[3])):
        change(store, state, rng)


if __name__ == "__main__":
    main()
