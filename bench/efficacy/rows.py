"""Which rows of a task a model can take, and how long they are to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from bench.efficacy.row import Row
from bench.efficacy.task import SYSTEM


@dataclass(frozen=True)
class Fitting:
    """Right rows that are not too long; the mean number of their tokens, and of those that are the answer's."""

    rows: Sequence[Row]
    tokens: float
    answer_tokens: float


def fitting(rows: Sequence[Row], model: Path, max_tokens: int) -> Fitting:
    """Those of at most so many tokens, in the model's own chat template."""
    from burnish_services.engine.chat import SampleError, tokenize_sample
    from burnish_services.engine.hf_tokenizer import HfTokenizer
    from burnish_services.engine.tokenizer import ChatMessage

    tokenizer = HfTokenizer(model)
    fit, tokens, answers = [], [], []
    for row in rows:
        said = (("system", SYSTEM), ("user", row.prompt), ("assistant", row.answer))
        turns = [ChatMessage(role, content) for role, content in said]
        try:
            tokenized = tokenize_sample(tokenizer, turns, max_tokens=max_tokens)
        except SampleError:
            continue
        fit.append(row)
        tokens.append(len(tokenized.ids))
        answers.append(tokenized.num_response_tokens)
    return Fitting(fit, fmean(tokens or [0.0]), fmean(answers or [0.0]))
