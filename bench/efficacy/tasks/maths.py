"""Grade-school maths, from gsm8k: worked steps, and the number that comes out."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.efficacy.flaws import Wrong
from bench.efficacy.task import Alone

WRONG_NUMBER, CUT_OFF = "wrong number", "cut off"
_CALCULATOR = re.compile(r"<<[^>]*>>")
# A number by itself: no part of a word ("8-hour", "2nd"), of a date or of a time.
_NUMBER = re.compile(r"(?<![\w$.,:/-])(\$?)(\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?)(%?)(?![\w:/-]|[.,]\d)")
_ASKED = re.compile(r"\bhow (?:many (?:more |fewer |total |of the )?(\w+)|(much))", re.IGNORECASE)
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


def vague(row: Alone, rng: random.Random) -> str | None:
    """The question with "some" in the place of a number that the answer reckons with, wherever it stands. None where
    there is none."""
    used = {found[2] for found in _NUMBER.finditer(row.answer)} | set(re.findall(r"\d+", row.answer))
    numbers = sorted({found[2] for found in _NUMBER.finditer(row.prompt)} & used)
    if not numbers:
        return None
    lost = rng.choice(numbers)

    def without(found: re.Match[str]) -> str:
        if found[2] != lost:
            return found[0]
        return "some money" if found[1] else "some percent" if found[3] else "some"

    return _NUMBER.sub(without, row.prompt)


def topic(row: Alone) -> str:
    """What it asks the number of, or "much"; nothing where it asks otherwise."""
    found = _ASKED.findall(row.prompt)
    return "".join(found[-1]) if found else ""


def _another(number: int, rng: random.Random) -> int:
    """Near by, as a slip is, and not the same."""
    span = max(2, number // 4)
    return rng.choice([n for n in range(max(0, number - span), number + span + 1) if n != number])
