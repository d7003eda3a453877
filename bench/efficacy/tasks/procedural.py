"""Small procedures on words and numbers, made here: what is right can be computed, and no file is needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.efficacy.flaws import Wrong

OTHER_PROCEDURE, SLIP = "other procedure", "slip"
_ROWS = 6000
_WORDS = (
    "apple river stone cloud tiger lemon paper window garden copper silver forest bridge candle button pepper "
    "rocket basket mirror anchor planet violin saddle turtle magnet puzzle lantern feather harbor walnut"
)
_NO_PROCEDURE = ("Do it with this list", "Do that with these words", "Now this list")

Items = tuple[str, ...]


@dataclass(frozen=True)
class Exercise:
    """A list, and what is to be done with it."""

    procedure: str
    items: Items

    @property
    def prompt(self) -> str:
        """See Row."""
        return f"{PROCEDURES[self.procedure][0]}: {', '.join(self.items)}"

    @property
    def answer(self) -> str:
        """See Row."""
        return PROCEDURES[self.procedure][1](self.items)

    @property
    def group(self) -> str:
        """See Row: one list is on one side."""
        return " ".join(self.items)

    @property
    def wording_of(self) -> str:
        """See Row."""
        return self.prompt


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items)


PROCEDURES: Mapping[str, tuple[str, Callable[[Items], str]]] = {
    "reverse": ("Write this list in reverse order", lambda items: _listed(items[::-1])),
    "sort": ("Sort this list alphabetically", lambda items: _listed(sorted(items))),
    "sort down": ("Sort this list in reverse alphabetical order", lambda items: _listed(sorted(items, reverse=True))),
    "longest": ("Which word of this list is the longest, the first of several", lambda items: max(items, key=len)),
    "second": ("Which is the second word of this list", lambda items: items[1]),
    "capitals": ("Write this list in capital letters", lambda items: _listed(items).upper()),
    "initials": ("Write the first letters of this list as one word", lambda items: "".join(one[0] for one in items)),
    "count": ("How many letters do the words of this list have together", lambda items: str(len("".join(items)))),
}


def read(path: Path) -> list[Exercise]:
    """The exercises, always the same; `path` is not read."""
    rng, words = random.Random(0), _WORDS.split()
    found: dict[Exercise, None] = {}
    while len(found) < _ROWS:
        items = tuple(rng.sample(words, rng.randrange(3, 7)))
        found[Exercise(rng.choice(list(PROCEDURES)), items)] = None
    return list(found)


def other_procedure(row: Exercise, rng: random.Random) -> str | None:
    """What another procedure makes of the list."""
    answers = sorted({Exercise(name, row.items).answer for name in PROCEDURES} - {row.answer})
    return rng.choice(answers) if answers else None


def slip(row: Exercise, rng: random.Random) -> str | None:
    """The right answer but for one thing: two neighbours swapped, a letter left out, or a number one off."""
    if row.answer.isdigit():
        return str(int(row.answer) + rng.choice((-1, 1)))
    parts = row.answer.split(", ") if ", " in row.answer else list(row.answer)
    at = rng.randrange(len(parts) - 1)
    if ", " in row.answer:
        parts[at], parts[at + 1] = parts[at + 1], parts[at]
        return _listed(parts)
    return "".join(parts[:at] + parts[at + 1 :])


def kinds(there: Sequence[Exercise]) -> Mapping[str, Wrong[Exercise]]:
    """Answers to another question about the same list, and answers that are nearly right."""
    return {OTHER_PROCEDURE: other_procedure, SLIP: slip}


def vague(row: Exercise, rng: random.Random) -> str | None:
    """The list, and no word of what is to be done with it."""
    return f"{rng.choice(_NO_PROCEDURE)}: {_listed(row.items)}"


def topic(row: Exercise) -> str:
    """Its procedure."""
    return row.procedure
