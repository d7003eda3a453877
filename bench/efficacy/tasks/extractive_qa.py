"""Extractive question answering, from t0: a span of a context is the answer.

t0 asks each question in up to ten wordings, and each wording is wrong or right by itself: this is noise that the data
themselves contradict.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.efficacy.flaws import Wrong
from bench.efficacy.tasks.spans import KINDS
from bench.efficacy.tasks.templates import Question, questions

# By the word that a question asks with, what is left of it.
_LEFT = {"who": "Who was it?", "where": "Where was it?", "when": "When was it?", "how": "How was it?", "why": "Why?"}
_WHAT = "What about it?"


def read(path: Path) -> list[Question]:
    """The extractive questions of t0_50k.parquet, in order."""
    import pyarrow.parquet as pq

    return list(questions(pq.read_table(path, columns=["task", "instruction", "output"]).to_pylist()))


def kinds(there: Sequence[Question]) -> Mapping[str, Wrong[Question]]:
    """Another span of the same context, and a whole sentence of it."""
    return KINDS


def vague(row: Question, rng: random.Random) -> str | None:
    """The prompt with a question that could be asked of any context: "What about it?", or no more than the word that
    the question asks with. None where the question stands in the prompt more than once."""
    asking = re.search(rf"\b({'|'.join(_LEFT)})\b", row.question, re.IGNORECASE)
    left = rng.choice((_WHAT, _LEFT[asking[1].lower()])) if asking else _WHAT
    if row.prompt.count(row.question) != 1 or left == row.question:
        return None
    return row.prompt.replace(row.question, left)


def topic(row: Question) -> str:
    """Its context."""
    return row.context
