"""A task of this bench: data with flaws that are known, a small clean set to learn from, and rows to judge by.

`extractive_qa` is the one there is; another one is another function that makes a `Dataset`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.efficacy.flaws import Flaw, plant
from bench.efficacy.templates import Question, questions

# t0 asks every question in up to ten wordings. Of those that are validated or judged by so many are taken, so that the
# sets hold more questions.
_WORDINGS = 2


@dataclass(frozen=True)
class Sizes:
    """Rows of the three sets, and the share of the training rows that gets flaws."""

    rows: int  # 0: all that are left beside the other two
    validation: int
    held_out: int
    noise: float


@dataclass(frozen=True)
class Dataset:
    """Rows to train on, some of them wrong, and clean ones. Contexts are on one side only. `flaws`: by place in
    `training`."""

    training: Sequence[Question]
    flaws: Mapping[int, Flaw]
    validation: Sequence[Question]
    held_out: Sequence[Question]


class TooFew(ValueError):
    """There are not as many rows as were asked for; the message says how many there are."""


def extractive_qa(there: Sequence[Question], sizes: Sizes, seed: int) -> Dataset:
    """Of all questions, training rows with planted flaws, a validation set and held-out rows, drawn by seed. No context
    is in two of them. Raises TooFew."""
    rng = random.Random(seed)
    contexts = by_context(there)
    order = list(contexts)
    rng.shuffle(order)
    validation = _take(order, contexts, sizes.validation, rng)
    held_out = _take(order, contexts, sizes.held_out, rng)
    left = [question for context in order for question in contexts[context]]
    if len(left) < sizes.rows:
        raise TooFew(
            f"{len(left)} of {len(there)} rows are left to train on beside {len(validation)} validation and"
            f" {len(held_out)} held-out rows of other contexts; {sizes.rows} were asked for"
        )
    training = rng.sample(left, sizes.rows or len(left))
    return Dataset(training, plant(training, sizes.noise, rng), validation, held_out)


def by_context(there: Iterable[Question]) -> dict[str, list[Question]]:
    """The questions of each context; spaces and case make no other context."""
    found: dict[str, list[Question]] = {}
    for question in there:
        found.setdefault(_plain(question.context), []).append(question)
    return found


def _take(order: list[str], contexts: Mapping[str, list[Question]], count: int, rng: random.Random) -> list[Question]:
    """`count` rows of the last contexts, which are taken off `order`. Raises TooFew."""
    taken: list[Question] = []
    while len(taken) < count:
        if not order:
            raise TooFew(f"all contexts together have {len(taken)} of {count} rows to be held out")
        wordings: dict[str, list[Question]] = {}
        for question in contexts[order.pop()]:
            wordings.setdefault(_plain(question.question), []).append(question)
        for same in wordings.values():
            taken += rng.sample(same, min(_WORDINGS, len(same)))
    return taken[:count]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class Files:
    """Where a data set is. No recipe is given `truth`."""

    folder: Path

    @property
    def training(self) -> Path:
        """What recipes are given to polish."""
        return self.folder / "training.jsonl"

    @property
    def right(self) -> Path:
        """The right ones of these rows: what an oracle would keep."""
        return self.folder / "right.jsonl"

    @property
    def validation(self) -> Path:
        """Clean rows to learn from."""
        return self.folder / "validation.jsonl"

    @property
    def held_out(self) -> Path:
        """Clean rows to judge by."""
        return self.folder / "held-out.jsonl"

    @property
    def truth(self) -> Path:
        """The training rows that are wrong: `id`, `flaw`, and the right `response`; `burnish run --truth` reads it."""
        return self.folder / "truth.jsonl"

    def flaws(self) -> dict[str, str]:
        """By id, the kind of flaw of each row that has one."""
        lines = self.truth.read_text(encoding="utf-8").splitlines()
        return {record["id"]: record["flaw"] for record in map(json.loads, lines)}


def write(dataset: Dataset, folder: Path) -> Files:
    """The same as files, the same bytes for the same data set."""
    files = Files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows, truth = [], []
    for place, question in enumerate(dataset.training):
        name, flaw = f"t-{place:05d}", dataset.flaws.get(place)
        rows.append(_row(name, question.prompt, question.answer if flaw is None else flaw.answer))
        if flaw is not None:
            truth.append({"id": name, "flaw": flaw.kind, "response": question.answer})
    _write(files.training, rows)
    _write(files.right, [row for place, row in enumerate(rows) if place not in dataset.flaws])
    _write(files.truth, truth)
    for path, clean in ((files.validation, dataset.validation), (files.held_out, dataset.held_out)):
        name = path.stem[0]
        _write(path, [_row(f"{name}-{place:05d}", q.prompt, q.answer) for place, q in enumerate(clean)])
    return files


def _row(name: str, prompt: str, answer: str) -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"id": name, "messages": turns}


def _write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")


def read_t0(path: Path, fits: Callable[[Question], bool]) -> list[Question]:
    """The extractive questions of t0_50k.parquet that fit, in order."""
    import pyarrow.parquet as pq

    records = pq.read_table(path, columns=["task", "instruction", "output"]).to_pylist()
    return [question for question in questions(records) if fits(question)]
