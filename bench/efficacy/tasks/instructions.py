"""Open instructions, from Alpaca: any answer that does what was asked."""

from __future__ import annotations

import bisect
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.efficacy.flaws import Wrong
from bench.efficacy.task import Alone

SWAPPED, CUT_OFF = "swapped", "cut off"
_NEIGHBOURS = 20  # answers of about the same length that one is swapped with
_FEWEST_WORDS = 8  # of an answer that is cut
_ANYTHING = ("Write something about this.", "Do this.", "What about this?")


@dataclass(frozen=True)
class Instruction(Alone):
    """`instruction` is the prompt without its input, if it has one."""

    instruction: str


def read(path: Path) -> list[Instruction]:
    """The rows of an Alpaca file, each prompt once; input after the instruction, as Alpaca's readers put it."""
    records = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Instruction] = {}
    for one in records:
        instruction = one["instruction"].strip()
        prompt = "\n".join(part for part in (instruction, one.get("input", "").strip()) if part)
        if one["output"].strip():
            found.setdefault(prompt, Instruction(prompt, one["output"].strip(), instruction))
    return list(found.values())


def cut_off(row: Alone, rng: random.Random) -> str | None:
    """The answer's first quarter to three quarters, ending in the middle of a sentence. None where it is short."""
    words = row.answer.split(" ")
    if len(words) < _FEWEST_WORDS:
        return None
    cut = " ".join(words[: rng.randrange(len(words) // 4, 3 * len(words) // 4 + 1)])
    return cut.rstrip(" .,;:!?\n") or None


def kinds(there: Sequence[Alone]) -> Mapping[str, Wrong[Alone]]:
    """Answers to other instructions, of about the same length, and answers that stop in the middle."""
    by_length = sorted(there, key=lambda row: (len(row.answer), row.answer))
    lengths = [len(row.answer) for row in by_length]

    def swapped(row: Alone, rng: random.Random) -> str | None:
        place = bisect.bisect_left(lengths, len(row.answer))
        near = by_length[max(0, place - _NEIGHBOURS // 2) : place + _NEIGHBOURS // 2 + 1]
        others = [one.answer for one in near if one.answer != row.answer]
        return rng.choice(others) if others else None

    return {SWAPPED: swapped, CUT_OFF: cut_off}


def vague(row: Instruction, rng: random.Random) -> str | None:
    """The instruction without its input, or what could be asked of anything, with the input if there is one."""
    given = row.prompt.removeprefix(row.instruction)
    if given and row.instruction and rng.random() < 0.5:
        return row.instruction
    return f"{rng.choice(_ANYTHING)}{given}"


def topic(row: Instruction) -> str:
    """The word that it begins with: what is to be done."""
    return row.instruction.split(" ", 1)[0]
