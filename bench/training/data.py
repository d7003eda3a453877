"""Rows for the training bench: the same tokens, with the same response tokens marked, for every contender."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from bench.training.recipe import IGNORED
from burnish import Sample
from burnish.cli.data import bundled
from burnish.coordinator.formats import load
from burnish_services.engine.chat import SampleError, TokenizedSample, tokenize_sample
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.engine.tokenizer import ChatMessage

BUNDLED = "bundled"


@dataclass(frozen=True)
class Row:
    """A sample, and the same as tokens."""

    sample: Sample
    tokens: TokenizedSample


@dataclass(frozen=True)
class Workload:
    """A data set as files: `conversations` for us, `tokens` for the others, and `held_out`, which nobody trains on,
    as tokens, too."""

    name: str
    conversations: Path
    tokens: Path
    held_out: Path
    lengths: list[int]  # tokens of each training sample
    response_tokens: int  # of all together

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


def workload(
    path: Path | None, tokenizer: HfTokenizer, sizes: tuple[int, int, int], folder: Path, *, repeat: bool = False
) -> Workload:
    """Of a data file, or None for the bundled set. `sizes`: training rows, rows held out, and the most tokens of one;
    both kinds of rows are drawn at random from the file, but the bundled set has a file held out by itself. Raises
    SystemExit where there are too few, unless training rows may `repeat`."""
    count, num_held_out, limit = sizes
    name = BUNDLED if path is None else path.stem
    drawn = rows(path or bundled("demo.jsonl"), tokenizer, limit)
    others = rows(bundled("demo_holdout.jsonl"), tokenizer, limit) if path is None else drawn
    held_out = list(islice(others, num_held_out))
    training = list(islice(drawn, count))
    if repeat and training:
        training = list(islice(cycle(training), count))
    if len(training) < count or not held_out:
        raise SystemExit(f"{name}: {len(training)} rows of at most {limit} tokens, and {count} are needed")
    folder.mkdir()
    made = Workload(
        name=name,
        conversations=folder / "conversations.jsonl",
        tokens=folder / "tokens.json",
        held_out=folder / "held_out.json",
        lengths=[len(row.tokens.ids) for row in training],
        response_tokens=sum(row.tokens.num_response_tokens for row in training),
    )
    made.conversations.write_text("".join(conversation(row.sample) for row in training), encoding="utf-8")
    write_tokens(made.tokens, training)
    write_tokens(made.held_out, held_out)
    return made


def rows(path: Path, tokenizer: HfTokenizer, limit: int) -> Iterator[Row]:
    """Rows that fit, in an order drawn at random, the same each time; tokenized as they are taken."""
    drawn = list(load([path], skip_bad_rows=True).samples)
    random.Random(0).shuffle(drawn)
    for sample in drawn:
        messages = [ChatMessage(str(message.role), message.content) for message in sample.messages]
        try:
            yield Row(sample, tokenize_sample(tokenizer, messages, max_tokens=limit))
        except SampleError:
            continue


def conversation(sample: Sample) -> str:
    """A line of what the training service reads."""
    turns = [{"role": str(message.role), "content": message.content} for message in sample.messages]
    return json.dumps({"id": sample.id, "messages": turns}) + "\n"


def write_tokens(path: Path, written: Sequence[Row]) -> None:
    """`input_ids` and `labels` of each row, as Hugging Face's trainers take them."""
    examples = []
    for row in written:
        ids = list(row.tokens.ids)
        labels = [IGNORED] * len(ids)
        for turn in row.tokens.turns:
            labels[turn.start : turn.end] = ids[turn.start : turn.end]
        examples.append({"input_ids": ids, "labels": labels})
    path.write_text(json.dumps(examples), encoding="utf-8")
