"""The held-out data of a run, as they were written beside it when it began."""

from __future__ import annotations

import json
from pathlib import Path

from burnish._types import Message, Role
from burnish.coordinator.content import sample_hash


def hashes_in(path: Path) -> list[str]:
    """The held-out samples of a file of JSON lines with `messages`, distinct, in order. Raises FileNotFoundError."""
    with path.open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        conversations = ([Message(Role(m["role"]), m["content"]) for m in row["messages"]] for row in rows)
        return list(dict.fromkeys(sample_hash(messages) for messages in conversations))
