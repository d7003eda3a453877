"""Names made from content: hashes of samples, digests of data sets, seeds. Pure; nothing here knows time or place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from burnish._types import Message


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no escapes that are not needed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def as_json(value: object) -> str:
    """JSON that UTF-8 can write: without escapes, but where halves of surrogate pairs stand in it, which come back as
    they were."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def digest_of(value: object) -> str:
    """sha256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def message_list(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A conversation as JSON values: [{"role": ..., "content": ...}, ...]."""
    return [{"role": message.role.value, "content": message.content} for message in messages]


def sample_hash(messages: Sequence[Message]) -> str:
    """The name of a conversation: sha256 of its canonical JSON."""
    return digest_of(message_list(messages))


def dataset_digest(pairs: Iterable[tuple[str, str]]) -> str:
    """sha256 over the ordered (row_id, sample_hash) pairs."""
    whole = hashlib.sha256()
    for row_id, content in pairs:
        whole.update(f"{json.dumps(row_id)} {content}\n".encode())
    return whole.hexdigest()


def set_digest(hashes: Iterable[str]) -> str:
    """sha256 over the sorted distinct hashes."""
    return hashlib.sha256("\n".join(sorted(set(hashes))).encode()).hexdigest()


def derive_seed(seed: int, *words: object) -> int:
    """A seed in [0, 2^63) for one purpose, from the run's seed and words that name the purpose."""
    text = "/".join(str(word) for word in (seed, *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
