"""Online self-refinement (BMO) as the coordinator decides it: which questions the model answers anew, which of its
answers may be learnt from, when that must stop, and what becomes of the rows. Pure.

The method has no reward from outside, so nothing in it stops a model from feeding on its own mistakes; the guards here
are ours (arXiv 2511.21056 describes none that could be read).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.bilevel import Weight
from burnish.coordinator.policy.sameness import normal
from burnish.coordinator.policy.verdict import Action, Verdict

_MOST_LENGTH_CHANGE = 4.0  # times longer or shorter than what the first answers were
_LEAST_DISTINCT = 0.25  # of how different the data's own responses to the same questions are


class Questions(StrEnum):
    """Which questions are answered anew; the published code's `dynamic` and `fixed`."""

    LOWEST = "lowest"  # those whose own responses weigh least
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model to a question. `tokens` may be 0 where nothing was said; `mean_logprob` is its
    generator's own, in nats per token; `rejection` says why it is not learnt from."""

    row_id: str
    number: int
    text: str = ""
    tokens: int = 0
    mean_logprob: float = 0.0
    rejection: str = ""


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a model's answers are at one refresh. `entropy`: estimated by them, nats per token; `length`: tokens per
    answer; `distinct`: different answers per question, against the same of the data's own responses; `divergence`: KL
    from the base model, estimated on the accepted ones, nats per token. None where nothing can be said."""

    num_questions: int
    num_answers: int
    num_accepted: int
    num_answered: int  # questions with an accepted answer
    entropy: float | None
    length: float | None
    distinct: float | None
    divergence: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Where answering anew stops. `min_accepted`: share of the answers, in [0, 1]; `min_entropy`: share of the first
    refresh's, in [0, 1]; `max_divergence`: nats per token, None for no limit."""

    min_accepted: float = 0.5
    min_entropy: float = 0.1
    max_divergence: float | None = None


def choose_questions(
    rows: Sequence[DataRow], weights: Mapping[str, Weight], share: float, choice: Questions, seed: int
) -> list[DataRow]:
    """The share of the rows with a weight, at least one, that is answered anew, in the order of the data: those with
    the smallest logits (of equals the first), or drawn at random by `seed`."""
    known = [index for index, row in enumerate(rows) if row.row_id in weights]
    if not known:
        return []
    size = max(1, int(share * len(known) + 1e-9))
    if choice is Questions.RANDOM:
        taken = random.Random(seed).sample(known, size)
    else:
        taken = sorted(known, key=lambda index: (weights[rows[index].row_id].logit, index))[:size]
    return [rows[index] for index in sorted(taken)]


def question_seed(seed: int, step: int) -> int:
    """The seed by which the questions of a pause are drawn."""
    return derive_seed(seed, "questions", step)


def vitals(answers: Sequence[Answer], data_texts: Mapping[str, str], prompts: Mapping[str, str]) -> Vitals:
    """How the answers are; `data_texts` has the data's own response to every question, by row, and `prompts` what tells
    its prompt from others: how many different answers there are is counted over these, since rows with the same prompt
    are answered once."""
    said = [one for one in answers if one.tokens]
    tokens = sum(one.tokens for one in said)
    first = {prompts[one.row_id]: normal(one.text) for one in reversed(said)}
    data_first = {prompts[row]: normal(data_texts[row]) for row in reversed(list(data_texts))}
    own = len(set(data_first.values())) / max(1, len(data_first))
    return Vitals(
        num_questions=len(data_texts),
        num_answers=len(answers),
        num_accepted=sum(not one.rejection for one in answers),
        num_answered=len({one.row_id for one in answers if not one.rejection}),
        entropy=-math.fsum(one.mean_logprob * one.tokens for one in said) / tokens if tokens else None,
        length=tokens / len(said) if said else None,
        distinct=len(set(first.values())) / len(first) / own if first else None,
    )


def divergence(answers: Sequence[Answer], base_losses: Mapping[tuple[str, int], float]) -> float | None:
    """KL(now ‖ base) in nats per token, estimated on the accepted answers: the mean of log p_now − log p_base over all
    of their tokens. `base_losses`: the base model's mean loss of an answer, by row and number."""
    known = [(one, base_losses.get((one.row_id, one.number))) for one in answers if not one.rejection]
    terms = [(one.tokens, one.mean_logprob + loss) for one, loss in known if loss is not None]
    total = sum(tokens for tokens, _ in terms)
    return math.fsum(tokens * each for tokens, each in terms) / total if total else None


def collapse(now: Vitals, first: Vitals, limits: Limits) -> str:
    """Why the model's answers may not be learnt from any more, in words; empty where they may."""
    if not now.num_accepted:
        return "not one answer passes the checks"
    if now.num_accepted < limits.min_accepted * now.num_answers:
        return f"{now.num_accepted} of {now.num_answers} answers pass the checks, fewer than {limits.min_accepted:.0%}"
    if _below(now.entropy, limits.min_entropy, first.entropy):
        return f"the entropy of the answers fell from {first.entropy:.3f} to {now.entropy:.3f} nats per token"
    if _below(now.length, 1 / _MOST_LENGTH_CHANGE, first.length) or _below(
        first.length, 1 / _MOST_LENGTH_CHANGE, now.length
    ):
        return f"the answers went from {first.length:.1f} to {now.length:.1f} tokens"
    if _below(now.distinct, _LEAST_DISTINCT, 1.0):
        return f"different questions get the same answers: {now.distinct:.0%} as many different ones as in the data"
    most = limits.max_divergence
    if most is not None and now.divergence is not None and now.divergence > most:
        return f"the model is {now.divergence:.3f} nats per token away from the base model, more than {most:g}"
    return ""


def _below(value: float | None, share: float, reference: float | None) -> bool:
    return value is not None and reference is not None and value < share * reference


def consensus(answers: Sequence[Answer]) -> tuple[Answer, int] | None:
    """Of the accepted answers to one question the one that most say (`sameness.normal`), and how many do; of equals the
    one that its generator found likeliest. None where none is accepted."""
    accepted = [one for one in answers if not one.rejection]
    if not accepted:
        return None
    votes = Counter(normal(one.text) for one in accepted)
    best = max(accepted, key=lambda one: (votes[normal(one.text)], one.mean_logprob, -one.number))
    return best, votes[normal(best.text)]


def refine_verdicts(verdicts: Sequence[Verdict], answers: Mapping[str, tuple[str, str]]) -> list[Verdict]:
    """The verdicts of the selection, with what would be left out answered anew where that can be: `answers` has, by
    row, the sample with the model's answer and why it is that one."""
    return [_refined(one, *answers[one.row_id]) if _may_be_refined(one, answers) else one for one in verdicts]


def _may_be_refined(verdict: Verdict, answers: Mapping[str, tuple[str, str]]) -> bool:
    return verdict.actions == (Action.DROP,) and verdict.row_id in answers


def _refined(verdict: Verdict, sample: str, why: str) -> Verdict:
    return replace(verdict, actions=(Action.REFINE,), hints=(sample,), reasons=(*verdict.reasons, why))
