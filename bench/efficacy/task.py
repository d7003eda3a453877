"""What a task of this bench is made of: rows to train on, some of them wrong, a small clean set to learn from, and rows
to judge by. Which tasks there are is in `tasks/`, what is wrong with rows in `flaws`. Pure, but for `write`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bench.efficacy.flaws import Flaw, Kind, plant
from bench.efficacy.row import Row, RowT, plain

# Of what is validated or judged by, as many wordings of one question are taken, so that the sets hold more questions.
_WORDINGS = 2

# Of every row. Where there is none, some chat templates have their own: SmolLM2's 20 tokens would be half of a row of
# the shortest task, and half of what its training costs.
SYSTEM = "Do what is asked."


Kinds: TypeAlias = "Callable[[Sequence[RowT]], Mapping[str, Kind[RowT]]]"  # of flaws, by name, of these rows


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


def divide(there: Sequence[RowT], kinds: Kinds[RowT], sizes: Sizes, seed: int) -> Dataset:
    """Of all rows, training rows with planted flaws, a validation set and held-out rows, drawn by seed. No group is in
    two of them, and `kinds` are made of training rows alone: else the answer to another row might be one that is
    judged by. Raises TooFew."""
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
    return Dataset(training, plant(training, kinds(training), sizes.noise, rng), validation, held_out)


def by_group(there: Iterable[RowT]) -> dict[str, list[RowT]]:
    """The rows of each group; spaces and case make no other group."""
    found: dict[str, list[RowT]] = {}
    for row in there:
        found.setdefault(plain(row.group), []).append(row)
    return found


def _take(order: list[str], groups: Mapping[str, list[RowT]], count: int, rng: random.Random) -> list[RowT]:
    """`count` rows of the last groups, which are taken off `order`. Raises TooFew."""
    taken: list[RowT] = []
    while len(taken) < count:
        if not order:
            raise TooFew(f"all groups together have {len(taken)} of {count} rows to be held out")
        wordings: dict[str, list[RowT]] = {}
        for row in groups[order.pop()]:
            wordings.setdefault(plain(row.wording_of), []).append(row)
        for same in wordings.values():
            taken += rng.sample(same, min(_WORDINGS, len(same)))
    return taken[:count]


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
        """The right ones of these rows: what an oracle would keep. It leaves out what is wrong and brings nothing back:
        rows in whose places copies were put are in neither file."""
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
        """The training rows that are wrong: `id`, `flaw`, and the `response` that is right for the prompt (to a vague
        prompt: the one that was); `burnish run --truth` reads it."""
        return self.folder / "truth.jsonl"

    def flaws(self) -> dict[str, str]:
        """By id, the kind of flaw of each row that has one."""
        with self.truth.open(encoding="utf-8") as lines:
            return {record["id"]: record["flaw"] for record in map(json.loads, lines)}


def write(dataset: Dataset, folder: Path) -> Files:
    """The same as files, the same bytes for the same data set."""
    files = Files(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows, truth = [], []
    for place, row in enumerate(dataset.training):
        name, flaw = f"t-{place:05d}", dataset.flaws.get(place)
        rows.append(_record(name, flaw.prompt, flaw.answer) if flaw else _record(name, row.prompt, row.answer))
        if flaw:
            truth.append({"id": name, "flaw": flaw.kind, "response": dataset.training[flaw.of].answer})
    _write(files.training, rows)
    _write(files.right, [row for place, row in enumerate(rows) if place not in dataset.flaws])
    _write(files.truth, truth)
    for path, clean in ((files.validation, dataset.validation), (files.held_out, dataset.held_out)):
        name = path.stem[0]
        _write(path, [_record(f"{name}-{place:05d}", row.prompt, row.answer) for place, row in enumerate(clean)])
    return files


def _record(name: str, prompt: str, answer: str) -> dict[str, object]:
    said = (("system", SYSTEM), ("user", prompt), ("assistant", answer))
    turns = [{"role": role, "content": content} for role, content in said]
    return {"id": name, "messages": turns}


def _write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
