"""Sampled answers: where in a reply the answer stands, and how near two answers are. Pure."""

from __future__ import annotations

import re

MARKER = "Answer:"
_MARKER = re.compile(r"\banswer\s*:", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_EDGES = re.compile(r"^\W+|\W+$")


def extract(reply: str) -> str:
    """What stands after the reply's last `Answer:`, up to the first empty line; empty where there is none."""
    found = list(_MARKER.finditer(reply))
    if not found:
        return ""
    return reply[found[-1].end() :].strip().split("\n\n", 1)[0].strip()


def same(first: str, second: str) -> bool:
    """r: equal but for case, runs of whitespace, and punctuation at the ends."""
    return _normal(first) == _normal(second)


def overlap(first: str, second: str) -> float:
    """Jaccard index of the two sets of words, case aside, in [0, 1]; of two texts without words whether they are the
    same."""
    one, two = (set(_WORD.findall(text.casefold())) for text in (first, second))
    if not one and not two:
        return float(same(first, second))
    return len(one & two) / len(one | two)


def words(text: str) -> int:
    """Number of words."""
    return len(_WORD.findall(text))


def _normal(text: str) -> str:
    return _EDGES.sub("", " ".join(text.casefold().split()))
