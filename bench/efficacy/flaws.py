"""What can be wrong with rows, and its planting. A flaw changes a row's answer or its prompt, or the row is a copy too
many of another that is right: that is a property of the set, and of no row. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias

from bench.efficacy.row import RowT, plain

VAGUE, DUPLICATE = "vague", "duplicate"
_COPIED = 5  # rows of one topic that a flood copies, at most

# What another text of one kind is for a row's; None where there is none.
Change: TypeAlias = Callable[[RowT, random.Random], "str | None"]
Wrong: TypeAlias = Change[RowT]  # a kind of flaw by itself: the wrong answer


@dataclass(frozen=True)
class Vague(Generic[RowT]):
    """A kind that leaves the answer, and takes from the prompt what made it answerable."""

    prompt: Change[RowT]


@dataclass(frozen=True)
class Flood(Generic[RowT]):
    """A kind that puts copies of a few rows of one topic in the place of others. The surplus is what is wrong: of each,
    the first by place is right. `topic`: what a row is about; empty for nothing that can be told."""

    topic: Callable[[RowT], str]


Kind: TypeAlias = "Wrong[RowT] | Vague[RowT] | Flood[RowT]"


@dataclass(frozen=True)
class Flaw:
    """What stands in a row's place. `of`: the place of the row whose answer would be right there, which is its own, and
    for a copy that of the first."""

    kind: str
    prompt: str
    answer: str
    of: int


def plant(rows: Sequence[RowT], kinds: Mapping[str, Kind[RowT]], share: float, rng: random.Random) -> dict[int, Flaw]:
    """By place, what becomes of round(`share` · number) of the rows, the kinds taking turns. Fewer where rows have no
    flaw of any kind; a row that lacks one kind gets the next. A flood comes last, so that it copies right rows."""
    wanted = round(share * len(rows))
    floods = {name: kind for name, kind in kinds.items() if isinstance(kind, Flood)}
    of_rows = {name: kind for name, kind in kinds.items() if not isinstance(kind, Flood)}
    surplus = wanted // len(kinds)
    flaws = _one_by_one(rows, of_rows, wanted - surplus * len(floods), rng)
    for name, flood in floods.items():
        flaws |= _copies(name, rows, flaws, flood.topic, surplus, rng)
    return flaws


def _one_by_one(
    rows: Sequence[RowT], kinds: Mapping[str, Wrong[RowT] | Vague[RowT]], wanted: int, rng: random.Random
) -> dict[int, Flaw]:
    order = list(range(len(rows)))
    rng.shuffle(order)
    names = list(kinds)
    flaws: dict[int, Flaw] = {}
    for place in order:
        if len(flaws) == wanted:
            break
        turn = len(flaws) % len(names)
        for name in names[turn:] + names[:turn]:
            flaw = _made(name, kinds[name], place, rows[place], rng)
            if flaw is not None:
                flaws[place] = flaw
                break
    return flaws


def _made(name: str, kind: Wrong[RowT] | Vague[RowT], place: int, row: RowT, rng: random.Random) -> Flaw | None:
    if isinstance(kind, Vague):
        prompt = kind.prompt(row, rng)
        return None if prompt is None else Flaw(name, prompt, row.answer, place)
    answer = kind(row, rng)
    return None if answer is None else Flaw(name, row.prompt, answer, place)


def _copies(
    name: str,
    rows: Sequence[RowT],
    wrong: Collection[int],
    topic: Callable[[RowT], str],
    count: int,
    rng: random.Random,
) -> dict[int, Flaw]:
    """Of `count` right rows, drawn, the places go to copies of the first rows of one topic. They lie behind the row
    that they copy, so that who reads in order and keeps the first of each keeps what is right."""
    right = [place for place in range(len(rows)) if place not in wrong]
    firsts = _firsts(rows, right, topic)
    roomy = [found for found in firsts if sum(place > found[0] for place in right) >= count + _COPIED]
    if not roomy or not count:
        return {}
    copied = rng.choice([found for found in roomy if len(found) == _COPIED] or [max(roomy, key=len)])
    behind = [place for place in right if place > copied[0] and place not in copied]
    flaws = {}
    for place in rng.sample(behind, count):
        of = rng.choice([first for first in copied if first < place])
        flaws[place] = Flaw(name, reworded(rows[of].prompt, rng), rows[of].answer, of)
    return flaws


def _firsts(rows: Sequence[RowT], right: Sequence[int], topic: Callable[[RowT], str]) -> list[list[int]]:
    """Of each topic, the places of the first right rows that ask different things."""
    found: dict[str, dict[str, int]] = {}
    for place in right:
        about = plain(topic(rows[place]))
        asked = found.setdefault(about, {}) if about else {}
        if len(asked) < _COPIED:
            asked.setdefault(plain(rows[place].wording_of), place)
    return [list(asked.values()) for asked in found.values()]


def reworded(prompt: str, rng: random.Random) -> str:
    """The same, or what asks the same in nearly the same letters."""
    return rng.choice((_same, _other_case, _other_end, _wider, _polite))(prompt, rng)


def _same(prompt: str, rng: random.Random) -> str:
    return prompt


def _other_case(prompt: str, rng: random.Random) -> str:
    return prompt[:1].swapcase() + prompt[1:]


def _other_end(prompt: str, rng: random.Random) -> str:
    return prompt[:-1] if prompt[-1:] in (".", "!", "?") else f"{prompt}."


def _wider(prompt: str, rng: random.Random) -> str:
    at = rng.choice([place for place, letter in enumerate(prompt) if letter == " "] or [len(prompt)])
    return f"{prompt[:at]} {prompt[at:]}"


def _polite(prompt: str, rng: random.Random) -> str:
    return f"Please {prompt[:1].lower()}{prompt[1:]}"
