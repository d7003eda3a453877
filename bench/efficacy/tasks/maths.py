"""Grade-school maths, from gsm8k: worked steps, and the number that comes out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.efficacy.task import Alone, Wrong

WRONG_NUMBER, CUT_OFF = "wrong number", "cut off"
_CALCULATOR = re.compile(r"<<[^>]*>>")
_RESULT = re.compile(r"\n#### *(.+)$")


def read(path: Path) -> list[Alone]:
    """The rows of gsm8k's JSONL, without what its calculator was told; the result as `#### 72` in the last line."""
    with path.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [Alone(one["question"].strip(), _CALCULATOR.sub("", one["answer"]).strip()) for one in records]


def result(answer: str) -> str | None:
    """The number that an answer ends with, without commas; None where it has none."""
    found = _RESULT.search(answer)
    return found[1].replace(",", "").strip() if found else None


def wrong_number(row: Alone, rng: random.Random) -> str | None:
    """The answer with another result, in the last line and wherever the steps name it after an equals sign. None where
    the result is no plain number."""
    right = result(row.answer)
    if right is None or not re.fullmatch(r"\d+", right):
        return None
    wrong = _another(int(right), rng)
    steps = row.answer[: row.answer.rindex("\n####")]
    named = re.compile(rf"(=\s*\$?)(?:{right}|{int(right):,})(?![\d.,]*\d)")
    return f"{named.sub(lambda found: f'{found[1]}{wrong}', steps)}\n#### {wrong}"


def cut_off(row: Alone, rng: random.Random) -> str | None:
    """The first steps alone, without a result. None where there is one step."""
    steps = row.answer.split("\n")[:-1]
    return "\n".join(steps[: rng.randrange(1, len(steps))]) if len(steps) > 1 else None


def kinds(there: Sequence[Alone]) -> Mapping[str, Wrong[Alone]]:
    """Other results, and steps that lead to none."""
    return {WRONG_NUMBER: wrong_number, CUT_OFF: cut_off}


def _another(number: int, rng: random.Random) -> int:
    """Near by, as a slip is, and not the same."""
    span = max(2, number // 4)
    return rng.choice([n for n in range(max(0, number - span), number + span + 1) if n != number])
