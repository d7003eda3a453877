"""How good an answer is, from 0 to 1, and how long one may be. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from bench.efficacy.tasks.maths import result

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Score:
    """`of(said, right)` is in [0, 1]. `max_tokens`: of an answer that is generated."""

    name: str
    of: Callable[[str, str], float]
    max_tokens: int


def exact_match(said: str, right: str) -> float:
    """Whether both are the same but for white space, and a full stop at the end. Case counts."""
    return float(_words(said) == _words(right))


def token_f1(said: str, right: str) -> float:
    """F1 of the words that both have, normalised as SQuAD does: no case, punctuation or articles. Where one has no
    words left, whether neither has."""
    a, b = _normal(said), _normal(right)
    if not a or not b:
        return float(a == b)
    shared = sum((Counter(a) & Counter(b)).values())
    return 2 * shared / (len(a) + len(b))


def same_number(said: str, right: str) -> float:
    """Whether what is said comes to the right result: by its last line if that is a result, else by its last number."""
    wanted = number_in(right)
    return float(wanted is not None and number_in(said) == wanted)


def number_in(text: str) -> Decimal | None:
    """The result that an answer ends with, else the last number in it; None where there is none."""
    found = _NUMBER.findall(result(text) or "") or _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


SCORES: Mapping[str, Score] = {
    "procedural": Score("exact match", exact_match, 48),
    "extractive_qa": Score("token F1", token_f1, 48),
    "maths": Score("same number", same_number, 256),
}


def answer_tokens(task: str, max_tokens: int) -> int:
    """How long an answer may be in a task, where its rows have so many tokens."""
    score = SCORES.get(task)
    return min(max_tokens, score.max_tokens if score else max_tokens)


def _words(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _normal(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
