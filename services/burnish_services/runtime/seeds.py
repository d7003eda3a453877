"""Seeds derived from one seed and what it is for, so that the same item gets the same seed in any batch and order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from burnish_services.engine.tokenizer import ChatMessage


def derive_seed(seed: int | None, *purpose: str | int) -> int | None:
    """A seed in [0, 2**63) that depends on all arguments; None (no seed) stays None."""
    if seed is None:
        return None
    text = json.dumps([seed, *purpose], ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def content_key(messages: Sequence[ChatMessage]) -> str:
    """What a conversation says, for `derive_seed`: equal for equal roles and texts, whatever the sample's id."""
    text = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
