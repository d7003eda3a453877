"""The tasks of this bench: where their rows come from, and what can be wrong with them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.efficacy.flaws import DUPLICATE, VAGUE, Flood, Kind, Vague, Wrong
from bench.efficacy.tasks import extractive_qa, instructions, maths, procedural

_SHARED = Path("../shared/data")


ANSWERS = "answers"  # all kinds together that change an answer


class UnknownFlaw(ValueError):
    """A task has no flaw of that name; the message says which it has."""


@dataclass(frozen=True)
class Task:
    """`data`: the file that rows are read from; None where they are made here. `answers`: of all rows, what makes wrong
    answers. `vague`: a row's prompt without what makes it answerable. `topic`: what a row is about."""

    title: str
    data: Path | None
    read: Callable[[Path], Sequence[Any]]
    answers: Callable[[Sequence[Any]], Mapping[str, Wrong[Any]]]
    vague: Callable[[Any, random.Random], str | None]
    topic: Callable[[Any], str]

    def kinds(self, there: Sequence[Any], names: Collection[str] = (ANSWERS,)) -> Mapping[str, Kind[Any]]:
        """The kinds of flaws by these names, in whatever order they are named. Raises UnknownFlaw."""
        answers = self.answers(there)
        all_of_them: dict[str, Kind[Any]] = {**answers, VAGUE: Vague(self.vague), DUPLICATE: Flood(self.topic)}
        unknown = sorted(set(names) - {ANSWERS, *all_of_them})
        if unknown or not names:
            raise UnknownFlaw(
                f"{self.title} have no flaw {', '.join(unknown) or 'without a name'}; expected {ANSWERS} for those"
                f" that change an answer, or any of: {', '.join(all_of_them)}"
            )
        wanted = {*names, *(answers if ANSWERS in names else ())}
        return {name: kind for name, kind in all_of_them.items() if name in wanted}


TASKS: Mapping[str, Task] = {
    "extractive_qa": Task(
        "extractive QA",
        _SHARED / "t0_50k.parquet",
        extractive_qa.read,
        extractive_qa.kinds,
        extractive_qa.vague,
        extractive_qa.topic,
    ),
    "maths": Task(
        "grade-school maths", _SHARED / "gsm8k_train.jsonl", maths.read, maths.kinds, maths.vague, maths.topic
    ),
    "instructions": Task(
        "open instructions",
        _SHARED / "alpaca_5pct.json",
        instructions.read,
        instructions.kinds,
        instructions.vague,
        instructions.topic,
    ),
    "procedural": Task("procedures", None, procedural.read, procedural.kinds, procedural.vague, procedural.topic),
}
