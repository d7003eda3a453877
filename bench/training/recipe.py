"""How everybody trains: what the contenders' processes share with the one that starts them."""

from __future__ import annotations

from dataclasses import dataclass

WARMUP = 2  # steps that are not timed
IGNORED = -100  # label of a token without a loss


@dataclass(frozen=True)
class Recipe:
    """One epoch in this many steps."""

    steps: int
    samples_per_step: int
    per_device: int  # samples of a forward pass
    learning_rate: float  # at the beginning, from where it falls by a cosine
    max_tokens: int  # of a sample
    threads: int

    @property
    def accumulation(self) -> int:
        """Forward passes of a step."""
        return self.samples_per_step // self.per_device

    @property
    def num_samples(self) -> int:
        """Of a run."""
        return self.steps * self.samples_per_step
