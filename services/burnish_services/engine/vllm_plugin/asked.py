"""What one request asks of the scoring pooler, and how the one tensor that comes back is laid out. Pure.

The reply is one row of float32: the parts asked for one after the other, in the order of `Asked`'s fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from burnish_services.engine.base import ActivationPooling

# A log-probability is never above 0; this marks positions that were not computed, because their keys and values were
# in the prefix cache.
MISSING = 1.0
KEY = "burnish"  # in PoolingParams.extra_kwargs


@dataclass(frozen=True, slots=True)
class Asked:
    """For a prompt of n tokens. What is left at its default is not computed."""

    # log p(token[i] | token[:i]) for i in [first_scored, n), n - first_scored numbers, nats; None: not asked.
    first_scored: int | None = None
    # With them, as many entropies (nats) and as many margins p(1st) - p(2nd) of the distributions they are from.
    distribution: bool = False
    # log p(candidate | all n tokens) of each of these token ids, nats.
    candidates: tuple[int, ...] = ()
    # Mean hidden state after the final norm over these ranges of positions, hidden-size numbers.
    mean_hidden: tuple[tuple[int, int], ...] = ()
    # Activations of all feed-forward neurons, layer after layer, pooled over these ranges of positions.
    activations: tuple[tuple[int, int], ...] = ()
    pooling: str = ActivationPooling.MAX.value

    def to_extra(self) -> dict[str, Any]:
        """For PoolingParams.extra_kwargs: plain values that vLLM can send to another process."""
        return {KEY: [getattr(self, item.name) for item in fields(self)]}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any] | None) -> Asked:
        """What `to_extra` wrote. Without it, as in vLLM's trial run for its memory profile: the most, all scores."""
        if extra is None or KEY not in extra:
            return cls(first_scored=1)
        first, distribution, candidates, hidden, neurons, pooling = extra[KEY]
        return cls(first, distribution, tuple(candidates), _spans(hidden), _spans(neurons), pooling)

    @property
    def whole(self) -> bool:
        """Whether all positions must be computed anew: those of a cached prefix are not seen."""
        return bool(self.mean_hidden or self.activations)

    def num_scored(self, num_tokens: int) -> int:
        """How many positions are scored."""
        return 0 if self.first_scored is None else max(num_tokens - self.first_scored, 0)

    def sizes(self, num_tokens: int, hidden_size: int, num_neurons: int) -> tuple[int, int, int, int, int, int]:
        """Numbers in the parts: log-probabilities, entropies, margins, candidates, mean hidden state, activations (of
        `num_neurons` in all layers together)."""
        scored = self.num_scored(num_tokens)
        extra = scored if self.distribution else 0
        hidden, neurons = hidden_size if self.mean_hidden else 0, num_neurons if self.activations else 0
        return scored, extra, extra, len(self.candidates), hidden, neurons


def _spans(pairs: Iterable[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in pairs)
