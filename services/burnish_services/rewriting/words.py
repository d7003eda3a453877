"""Texts as words, for comparing them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

# Scripts that write without spaces count each character as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")

_SENTENCE_END = re.compile(r"[.!?:]\s|\n")
# Words of ours in a row that can't be there by chance; a sentence of ours that is shorter counts whole, unless it is
# one that anybody says.
_INSTRUCTION_RUN = 5
_EXAMPLE_RUN = 10
_SHORTEST_SENTENCE = 5


def words(text: str) -> list[str]:
    """The words of a text in lower case, punctuation left out."""
    return _WORD.findall(text.lower())


def at_least_similar(a: Sequence[str], b: Sequence[str], threshold: float) -> float | None:
    """Their similarity where it reaches `threshold`, else None; cheap where they can't be that similar."""
    if not a or not b:
        return None
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    if matcher.real_quick_ratio() < threshold or matcher.quick_ratio() < threshold:
        return None
    ratio = matcher.ratio()
    return ratio if ratio >= threshold else None


def runs(text_words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words in a row, in order."""
    for start in range(len(text_words) - length + 1):
        yield tuple(text_words[start : start + length])


class OwnWords:
    """The words of our own instructions and worked examples, which have no place in a rewrite: a run of five from the
    instructions, of ten from the examples (which say ordinary things), or a whole sentence of theirs from five on."""

    def __init__(self, instructions: str = "", examples: str = "") -> None:
        self._runs = _sentence_runs(instructions, _INSTRUCTION_RUN) | _sentence_runs(examples, _EXAMPLE_RUN)
        self._lengths = sorted({len(run) for run in self._runs})

    def found_in(self, text: str, material: str) -> str | None:
        """Words of ours in `text` that are not in the material as well; None where there are none."""
        theirs, old = words(text), words(material)
        for length in self._lengths:
            if ours := self._runs.intersection(runs(theirs, length)).difference(runs(old, length)):
                return " ".join(min(ours))
        return None


def _sentence_runs(text: str, length: int) -> frozenset[tuple[str, ...]]:
    sentences = [words(sentence) for sentence in _SENTENCE_END.split(text)]
    return frozenset(
        run
        for sentence in sentences
        if len(sentence) >= _SHORTEST_SENTENCE
        for run in runs(sentence, min(length, len(sentence)))
    )
