"""Sampled answers: where in a reply the answer stands, and how near two answers are. Pure."""

from __future__ import annotations

import re
import unicodedata

MARKER = "Answer:"
# However a model decorates it; an underscore after it may be a part of the answer, as in __init__.
_MARKER = re.compile(r"(?<![^\W_])answer[*_`\s]*[:：](?:[*_`]+(?!\S)|\*+)?", re.IGNORECASE)
_DECORATION = "*_` \t\r\n"
# Scripts that write without spaces count each character as a word: the Chinese and Japanese ones, as the rewriting
# service counts them, and Thai, Lao, Burmese and Khmer.
_ALONE = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+")
_PIECE = re.compile(rf"[{_ALONE}]|[^{_ALONE}]+")
# What stands around an answer and is no part of it is punctuation (quotes, brackets, emphasis, the ends of sentences)
# and what has no shape. Signs, symbols and the marks of scripts are parts: -5 is not 5, C# not C, 50% not 50.
_AROUND = frozenset(("Ps", "Pe", "Pi", "Pf", "Po", "Cf", "Zs"))
_PARTS = frozenset("#%&@/\\‰٪")  # of Po
# Between words: whitespace, and between letters what joins them.
_BETWEEN = re.compile(r"\s+|(?<=[^\W\d_])[-–—/,，、;:；：](?=[^\W\d_])")


def extract(reply: str) -> str:
    """The first paragraph after the reply's last `Answer:` that is more than decoration; empty where there is none."""
    found = list(_MARKER.finditer(reply))
    if not found:
        return ""
    paragraphs = reply[found[-1].end() :].strip().split("\n\n")
    return next((one for one in paragraphs if one.strip(_DECORATION)), paragraphs[0]).strip()


def same(first: str, second: str) -> bool:
    """r: equal but for case, runs of whitespace, and what stands around them."""
    return normal(first) == normal(second)


def overlap(first: str, second: str) -> float:
    """Jaccard index of the two sets of words, case and what stands around each aside, in [0, 1]; of two texts without
    words whether they are the same."""
    one, two = (_words(text) for text in (first, second))
    if not one and not two:
        return float(same(first, second))
    return len(one & two) / len(one | two)


def words(text: str) -> int:
    """Number of words; of characters where a script writes without spaces."""
    return len(_WORD.findall(text))


def normal(text: str) -> str:
    """An answer as it is compared for being the same; where it is nothing but what stands around one, as it is."""
    folded = " ".join(text.casefold().split())
    return _bare(folded) or folded


def _words(text: str) -> set[str]:
    found = {_bare(piece) for word in _BETWEEN.split(text.casefold()) for piece in _PIECE.findall(word)}
    return {word for word in found if any(unicodedata.category(sign)[0] != "P" for sign in word)}


def _bare(text: str) -> str:
    start, end = 0, len(text)
    while start < end and _is_around(text, start):
        start += 1
    while end > start and _is_around(text, end - 1):
        end -= 1
    return text[start:end]


def _is_around(text: str, place: int) -> bool:
    sign, following = text[place], text[place + 1 : place + 2]
    if sign == "." and following.isdigit():
        return False  # .5
    if sign in "-–—•":
        return following == " "  # a bullet
    return sign == "`" or (sign not in _PARTS and unicodedata.category(sign) in _AROUND)
