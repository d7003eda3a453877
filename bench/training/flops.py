"""What training has to compute, whoever trains: floating-point operations of a Llama shape, counted, not measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_PASSES = 3  # forward once, backward twice: to what came in, and to the weights


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes: numbers of features but for `layers`, `heads`, `kv_heads` and the tokens of `vocabulary`."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def body_weights(self) -> int:
        """Weights that every token is multiplied with: of attention and of the gated feed-forward layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights that tokens with a loss are multiplied with."""
        return self.hidden * self.vocabulary


# Llama 3.2 1B's, but for the vocabulary, which is that of SmolLM2's tokenizer: 1.07 billion weights.
ONE_BILLION = Shape(16, 2048, 8192, 32, 8, 64, 49_152)


def training_flops(shape: Shape, lengths: Iterable[int], response_tokens: int) -> int:
    """Floating-point operations of one pass over samples of these lengths in tokens, forward and backward.

    Six for each weight and token (Kaplan et al. 2020, appendix B), the head at the `response_tokens` alone, and
    attention of each token to itself and those before it in its own sample: 2 for each feature of query and key, 2
    for each of probability and value. What a trainer computes beyond that, at padding, at prompts in the head,
    between samples in attention, is its own affair and does not count.
    """
    lengths = list(lengths)
    pairs = sum(length * (length + 1) // 2 for length in lengths)
    attention = 4 * shape.layers * shape.heads * shape.head_dim * pairs
    return _PASSES * (2 * shape.body_weights * sum(lengths) + 2 * shape.head_weights * response_tokens + attention)
