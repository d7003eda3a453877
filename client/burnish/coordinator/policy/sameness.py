"""When two responses say the same. Pure. (`burnish_services/scoring/answers.py` has the same rule for the service.)"""

from __future__ import annotations

import unicodedata

# What stands around an answer and is no part of it: quotes, brackets, emphasis, the ends of sentences. Signs, symbols
# and the marks of scripts are parts: -5 is not 5, C# not C, 50% not 50.
_AROUND = frozenset(".,;:!?…。、，；：！？।؟،؛\"'`*")
_PAIRED = frozenset(("Ps", "Pe", "Pi", "Pf"))


def normal(text: str) -> str:
    """A response as it is compared for being the same: case, runs of whitespace, and what stands around it aside. Where
    it is nothing else, as it is."""
    folded = " ".join(text.casefold().split())
    start, end = 0, len(folded)
    while start < end and _is_around(folded[start]):
        start += 1
    while end > start and _is_around(folded[end - 1]):
        end -= 1
    return folded[start:end] or folded


def _is_around(sign: str) -> bool:
    return sign == " " or sign in _AROUND or unicodedata.category(sign) in _PAIRED
