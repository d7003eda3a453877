"""Open instructions, from Alpaca: any answer that does what was asked."""

from __future__ import annotations

import bisect
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.efficacy.task import Alone, Wrong

SWAPPED, CUT_OFF = "swapped", "cut off"
_NEIGHBOURS = 20  # answers of about the same length that one is swapped with
_FEWEST_WORDS = 8  # of an answer that is cut


def read(path: Path) -> list[Alone]:
    """The rows of an Alpaca file, each prompt once; input after the instruction, as Alpaca's readers put it."""
    records = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Alone] = {}
    for one in records:
        prompt = "\n".join(part.strip() for part in (one["instruction"], one.get("input", "")) if part.strip())
        if one["output"].strip():
            found.setdefault(prompt, Alone(prompt, one["output"].strip()))
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
