"""Wrong answers to extractive questions, taken from the very context that holds the right one. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from bench.efficacy.flaws import Wrong
from bench.efficacy.tasks.templates import Question

OTHER_SPAN = "other span"
WHOLE_SENTENCE = "whole sentence"
_FEWEST_WORDS = 4  # of a sentence that stands for an answer
_EDGES = " \t\n.,;:!?\"'()[]“”‘’"


def other_span(question: Question, rng: random.Random) -> str | None:
    """As many words of the context as the answer has, from one sentence, that neither overlap with the answer wherever
    it is nor hold it or are held by it; if there are, such as begin like the answer: with a capital, a digit or
    neither. None where there are none."""
    count = len(question.answer.split())
    spans = []
    for sentence in sentences(question.context):
        for piece in _without(sentence, question.answer):
            words = piece.split()
            windows = (" ".join(words[at : at + count]).strip(_EDGES) for at in range(len(words) - count + 1))
            spans += [span for span in windows if len(span.split()) == count and _apart(span, question.answer)]
    alike = [span for span in spans if _beginning(span) == _beginning(question.answer)]
    return rng.choice(alike or spans) if spans else None


def whole_sentence(question: Question, rng: random.Random) -> str | None:
    """A sentence of the context in which the answer is not. None where there is none."""
    found = [
        sentence
        for sentence in sentences(question.context)
        if len(sentence.split()) >= _FEWEST_WORDS and _apart(sentence, question.answer)
    ]
    return rng.choice(found) if found else None


KINDS: Mapping[str, Wrong[Question]] = {
    OTHER_SPAN: other_span,
    WHOLE_SENTENCE: whole_sentence,
}


def sentences(text: str) -> list[str]:
    """Of a text, as far as punctuation and line breaks tell."""
    return [piece.strip() for piece in re.split(r"(?<=[.!?])\s+|\n+", text) if piece.strip()]


def _without(sentence: str, answer: str) -> list[str]:
    """What is left of a sentence where the answer is cut out, whatever its case."""
    return re.split(re.escape(answer), sentence, flags=re.IGNORECASE)


def _apart(text: str, answer: str) -> bool:
    """Whether neither is in the other, whatever their case."""
    a, b = text.casefold(), answer.casefold()
    return a not in b and b not in a


def _beginning(text: str) -> str:
    first = text.lstrip(_EDGES)[:1]
    return "digit" if first.isdigit() else "capital" if first.isupper() else "neither"
