"""Extractive question answering, from t0: a span of a context is the answer.

t0 asks each question in up to ten wordings, and each wording is wrong or right by itself: this is noise that the data
themselves contradict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.efficacy.task import Wrong
from bench.efficacy.tasks.spans import KINDS
from bench.efficacy.tasks.templates import Question, questions


def read(path: Path) -> list[Question]:
    """The extractive questions of t0_50k.parquet, in order."""
    import pyarrow.parquet as pq

    return list(questions(pq.read_table(path, columns=["task", "instruction", "output"]).to_pylist()))


def kinds(there: Sequence[Question]) -> Mapping[str, Wrong[Question]]:
    """Another span of the same context, and a whole sentence of it."""
    return KINDS
