"""What a task of this bench is made of: rows to train on, some of them wrong, a small clean set to learn from, and rows
to judge by. Which tasks there are is in `tasks/`. Pure, but for `write`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

# Of what is validated or judged by, as many wordings of one question are taken, so that the sets hold more questions.
_WORDINGS = 2


class Row(Protocol):
    """A right row. Those of one `group` are on one side only; those with one `wording_of` ask the same."""

    @property
    def prompt(self) -> str:
        """All that a model is asked."""

    @property
    def answer(self) -> str:
        """What is right."""

    @property
    def group(self) -> str:
        """What rows share that must not be learnt on one side and asked on the other."""

    @property
    def wording_of(self) -> str:
        """What is asked, however it is worded."""


@dataclass(frozen=True)
class Alone:
    """A row that shares nothing with others."""

    prompt: str
    answer: str

    @property
    def group(self) -> str:
        """Its prompt."""
        return self.prompt

    @property
    def wording_of(self) -> str:
        """Its prompt."""
        return self.prompt


RowT = TypeVar("RowT", bound=Row)
# What makes a wrong answer of one kind to a row; None where it cannot.
Wrong = Callable[[RowT, random.Random], "str | None"]


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a row: the kind, and the wrong answer that it got."""

    kind: str
    answer: str


@dataclass(frozen=True)
class Sizes:
    """Rows of the three sets, and the share of the training rows that gets flaws."""

    rows: int  # 0: all that are left beside the other two
    validation: int
    held_out: int
    noise: float


@dataclass(frozen=True)
class Dataset:
    """Rows to train on, some of them wrong, and clean ones. Groups are on one side only. `flaws`: by place in
    `training`."""

    training: Sequence[Row]
    flaws: Mapping[int, Flaw]
    validation: Sequence[Row]
    held_out: Sequence[Row]


class TooFew(ValueError):
    """There are not as many rows as were asked for; the message says how many there are."""


def divide(there: Sequence[RowT], kinds: Mapping[str, Wrong[RowT]], sizes: Sizes, seed: int) -> Dataset:
    """Of all rows, training rows with planted flaws, a validation set and held-out rows, drawn by seed. No group is in
    two of them. Raises TooFew."""
    rng = random.Random(seed)
    groups = by_group(there)
    order = list(groups)
    rng.shuffle(order)
    validation = _take(order, groups, sizes.validation, rng)
    held_out = _take(order, groups, sizes.held_out, rng)
    left = [row for group in order for row in groups[group]]
    if len(left) < sizes.rows:
        raise TooFew(
            f"{len(left)} of {len(there)} rows are left to train on beside {len(validation)} validation and"
            f" {len(held_out)} held-out rows of other groups; {sizes.rows} were asked for"
        )
    training = rng.sample(left, sizes.rows or len(left))
    return Dataset(training, plant(training, kinds, sizes.noise, rng), validation, held_out)


def by_group(there: Iterable[RowT]) -> dict[str, list[RowT]]:
    """The rows of each group; spaces and case make no other group."""
    found: dict[str, list[RowT]] = {}
    for row in there:
        found.setdefault(_plain(row.group), []).append(row)
    return found


def _take(order: list[str], groups: Mapping[str, list[RowT]], count: int, rng: random.Random) -> list[RowT]:
    """`count` rows of the last groups, which are taken off `order`. Raises TooFew."""
    taken: list[RowT] = []
    while len(taken) < count:
        if not order:
            raise TooFew(f"all groups together have {len(taken)} of {count} rows to be held out")
        wordings: dict[str, list[RowT]] = {}
        for row in groups[order.pop()]:
            wordings.setdefault(_plain(row.wording_of), []).append(row)
        for same in wordings.values():
            taken += rng.sample(same, min(_WORDINGS, len(same)))
    return taken[:count]


def plant(rows: Sequence[RowT], kinds: Mapping[str, Wrong[RowT]], share: float, rng: random.Random) -> dict[int, Flaw]:
    """By place, what becomes of round(`share` · number) of the rows, the kinds taking turns. Fewer where rows have no
    wrong answer of any kind; a row that lacks one kind gets the next."""
    wanted = round(share * len(rows))
    order = list(range(len(rows)))
    rng.shuffle(order)
    names = list(kinds)
    flaws: dict[int, Flaw] = {}
    for place in order:
        if len(flaws) == wanted:
            break
        turn = len(flaws) % len(names)
        for kind in names[turn:] + names[:turn]:
            answer = kinds[kind](rows[place], rng)
            if answer is not None:
                flaws[place] = Flaw(kind, answer)
                break
    return flaws


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
    for place, row in enumerate(dataset.training):
        name, flaw = f"t-{place:05d}", dataset.flaws.get(place)
        rows.append(_record(name, row.prompt, row.answer if flaw is None else flaw.answer))
        if flaw is not None:
            truth.append({"id": name, "flaw": flaw.kind, "response": row.answer})
    _write(files.training, rows)
    _write(files.right, [row for place, row in enumerate(rows) if place not in dataset.flaws])
    _write(files.truth, truth)
    for path, clean in ((files.validation, dataset.validation), (files.held_out, dataset.held_out)):
        name = path.stem[0]
        _write(path, [_record(f"{name}-{place:05d}", row.prompt, row.answer) for place, row in enumerate(clean)])
    return files


def _record(name: str, prompt: str, answer: str) -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"id": name, "messages": turns}


def _write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
