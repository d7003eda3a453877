"""The fake engine's numbers: losses and vectors that depend on the text as a model's would, roughly.

Pure and exactly repeatable: integer mixing (splitmix64) instead of a random generator, so the same digest and tokens
give the same float32 anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.fake.tokenizer import FIRST_BYTE, FIRST_WORD, VOCAB_SIZE, word_rank

HIDDEN_SIZE = 64
NEURONS = (4, 64)  # layers, neurons of each


def token_logprobs(ids: Sequence[int], digest: str, skill: float) -> NDArray[np.float32]:
    """log p of each token given those before it, all < 0; that of the first means nothing.

    Frequent words are likely, bytes (the stuff of rare and long words) less so, what stood before in the text more so;
    each model has its own opinion of each pair of tokens, and skill makes everything likelier.
    """
    tokens = np.asarray(ids, dtype=np.int64)
    surprise = _base_surprise()[tokens]
    _, first_seen = np.unique(tokens, return_index=True)
    repeated = np.ones(len(tokens), dtype=bool)
    repeated[first_seen] = False
    surprise = np.where(repeated, 0.7 * surprise, surprise)
    before = np.concatenate(([0], tokens[:-1]))
    opinion = _uniform(before * VOCAB_SIZE + tokens, digest)
    surprise = surprise * (0.6 + 0.8 * opinion) * (1.0 - 0.4 * skill) + 0.01
    return (-surprise).astype(np.float32)


def distribution(logprobs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Entropies (nats) and margins of distributions that gave tokens these log-probabilities: as if the model had been
    torn between the token and one other, which shared what the token was not given."""
    chance = np.exp(logprobs.astype(np.float64))
    other = np.maximum(1.0 - chance, 1e-12)
    entropies = -(chance * logprobs + other * np.log(other))
    return entropies.astype(np.float32), np.abs(chance - other).astype(np.float32)


def candidate_logprobs(ids: Sequence[int], candidates: Sequence[int], digest: str) -> NDArray[np.float32]:
    """log p of each candidate after the text: together nine tenths, split by each model's opinion of that text."""
    text = hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()
    logits = 4.0 * _uniform(np.asarray(candidates, dtype=np.int64), text + digest)
    return (np.log(0.9) + logits - np.log(np.exp(logits).sum())).astype(np.float32)


def embedding(ids: Sequence[int], digest: str) -> NDArray[np.float32]:
    """A vector of HIDDEN_SIZE numbers, the mean over tokens; texts that share words and phrases are close."""
    tokens = np.asarray(ids, dtype=np.int64)
    pairs = tokens[:-1] * VOCAB_SIZE + tokens[1:]
    keys, counts = np.unique(np.concatenate([tokens - VOCAB_SIZE, pairs]), return_counts=True)
    columns = np.arange(HIDDEN_SIZE, dtype=np.int64)
    values = _uniform(keys[:, None] * HIDDEN_SIZE + columns, "embedding") - 0.5
    values += 0.1 * (_uniform(keys[:, None] * HIDDEN_SIZE + columns, digest) - 0.5)
    # The common direction that real models' hidden states have, so that cosines are mostly positive.
    mean = (counts[:, None] * values).sum(axis=0) / len(tokens) + 0.15 * _uniform(columns, "direction")
    return mean.astype(np.float32)


def activations(ids: Sequence[int], digest: str) -> NDArray[np.float32]:
    """What each neuron does at each of these tokens: (tokens, *NEURONS), in (-1, 1). A neuron knows the token alone,
    and is mostly quiet."""
    tokens = np.asarray(ids, dtype=np.int64)
    columns = np.arange(NEURONS[0] * NEURONS[1], dtype=np.int64)
    values = 2.0 * _uniform(tokens[:, None] * len(columns) + columns, digest) - 1.0
    return (values**5).astype(np.float32).reshape(len(tokens), *NEURONS)


@lru_cache(maxsize=1)
def _base_surprise() -> NDArray[np.float64]:
    surprise = np.full(VOCAB_SIZE, 0.5)
    surprise[FIRST_BYTE:FIRST_WORD] = 3.5
    for token in range(FIRST_WORD, VOCAB_SIZE):
        surprise[token] = 0.8 + 0.3 * np.log2(1 + word_rank(token))
    return surprise


@lru_cache(maxsize=64)
def _salt(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _uniform(keys: NDArray[np.int64], salt: str) -> NDArray[np.float64]:
    """A number in [0, 1) for each key, the same for the same key and salt."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(_salt(salt))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
