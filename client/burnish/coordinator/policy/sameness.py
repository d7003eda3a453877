"""When two responses say the same. Pure. (`burnish_services/scoring/answers.py` has the same rule for the service.)"""

from __future__ import annotations

import unicodedata

# What stands around an answer and is no part of it is punctuation (quotes, brackets, emphasis, the ends of sentences)
# and what has no shape. Signs, symbols and the marks of scripts are parts: -5 is not 5, C# not C, 50% not 50.
_AROUND = frozenset(("Ps", "Pe", "Pi", "Pf", "Po", "Cf", "Zs"))
_PARTS = frozenset("#%&@/\\‰٪")  # of Po


def normal(text: str) -> str:
    """A response as it is compared for being the same: case, runs of whitespace, a bullet before it, and what stands
    around it aside. Where it is nothing else, as it is."""
    folded = " ".join(text.casefold().split())
    start, end = 0, len(folded)
    while start < end and _is_around(folded, start):
        start += 1
    while end > start and _is_around(folded, end - 1):
        end -= 1
    return folded[start:end] or folded


def _is_around(text: str, place: int) -> bool:
    sign, following = text[place], text[place + 1 : place + 2]
    if sign == "." and following.isdigit():
        return False  # .5
    if sign in "-–—•":
        return following == " "  # a bullet
    return sign == "`" or (sign not in _PARTS and unicodedata.category(sign) in _AROUND)
