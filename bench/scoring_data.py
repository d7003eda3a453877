"""Samples for the scoring bench: the same token sequences for every contender."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from burnish import Sample
from burnish.cli.data import bundled
from burnish.coordinator.formats import load
from burnish_services.engine.chat import SampleError, tokenize_sample
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.tokenizer import ChatMessage

SHARED = Path("../shared/data")
SOURCES = {
    "bundled": bundled("demo.jsonl"),
    "alpaca_5pct": SHARED / "alpaca_5pct.json",
    "t0_50k": SHARED / "t0_50k.parquet",
}


@dataclass(frozen=True)
class Workload:
    """Samples of one turn, and each as tokens up to the last of its response, with the position of the first."""

    name: str
    samples: list[Sample]
    sequences: list[tuple[list[int], int]]

    def part(self, number: int, of: int) -> Workload:
        """One of `of` parts of equal size, so that no turn scores what an earlier one left in a cache."""
        size = len(self.samples) // of
        chosen = slice(number * size, (number + 1) * size)
        return Workload(self.name, self.samples[chosen], self.sequences[chosen])

    @property
    def tokens(self) -> int:
        return sum(len(ids) for ids, _ in self.sequences)

    @property
    def response_tokens(self) -> int:
        return sum(len(ids) - first for ids, first in self.sequences)


def workload(name: str, tokenizer: HfTokenizer, count: int, context: int) -> Workload:
    """`count` samples drawn at random that fit the context and have one response; fewer where there are fewer."""
    drawn = list(load([SOURCES[name]], skip_bad_rows=True).samples)
    random.Random(0).shuffle(drawn)
    samples, sequences = [], []
    for sample in drawn:
        messages = [ChatMessage(str(message.role), message.content) for message in sample.messages]
        try:
            tokens = tokenize_sample(tokenizer, messages, max_tokens=context)
        except SampleError:
            continue
        if len(tokens.turns) != 1:
            continue
        samples.append(sample)
        # What a template puts behind the response is nobody's to score.
        sequences.append((tokens.ids[: tokens.turns[0].end], tokens.turns[0].start))
        if len(samples) == count:
            break
    return Workload(name, samples, sequences)
