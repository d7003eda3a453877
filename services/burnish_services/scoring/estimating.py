"""Puts a confidence together from what the model believes and the answers that it gave. Knows no RPC and no engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burnish_services.engine.base import EngineFailure
from burnish_services.scoring.answering import Answer
from burnish_services.scoring.answers import overlap, same
from burnish_services.scoring.confidence import Weights, agreement, combined, consistency, reflection
from burnish_services.scoring.reflecting import Belief

NOTHING_TO_GO_BY = "NOTHING_TO_GO_BY"
Similarity = Callable[[str, str], float]


@dataclass(frozen=True, slots=True)
class Compared:
    """A sampled answer beside the response: r, s and o; None where there was no answer to compare."""

    answer: Answer
    exact_match: bool = False
    similarity: float | None = None
    agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Confidence in one response, with all that it was made from."""

    confidence: float
    consistency: float | None
    reflection: float | None
    belief: Belief
    answers: tuple[Compared, ...]


def compare(
    response: str, answers: Sequence[Answer], alpha: float, similarity: Similarity = overlap
) -> tuple[Compared, ...]:
    """Each answer beside the response."""
    compared = []
    for answer in answers:
        if answer.failure is not None:
            compared.append(Compared(answer))
            continue
        match, near = same(answer.text, response), similarity(answer.text, response)
        compared.append(Compared(answer, match, near, agreement(near, match, alpha)))
    return tuple(compared)


def estimate(
    belief: Belief | EngineFailure, answers: tuple[Compared, ...], weights: Weights, min_covered_mass: float
) -> Estimate | EngineFailure:
    """The confidence, or why there is none: the belief's failure, one of an answer's that asking again may mend (or the
    estimate would depend on the engine's mood), or NOTHING_TO_GO_BY."""
    if isinstance(belief, EngineFailure):
        return belief
    for one in answers:
        if one.answer.failure is not None and one.answer.failure.retryable:
            return one.answer.failure
    reflected = None
    if belief.covered_mass >= min_covered_mass:
        verdicts = [verdict.probabilities for verdict in belief.verdicts]
        reflected = reflection([(v[0], v[1], v[2]) for v in verdicts])
    observed = consistency([one.agreement for one in answers if one.agreement is not None])
    confidence = combined(observed, reflected, belief.response.mean_probability, weights)
    if confidence is None:
        return EngineFailure(
            NOTHING_TO_GO_BY,
            f"the letters of the reflection's answers had {belief.covered_mass:.2f} of the probability, at least "
            f"{min_covered_mass:.2f} expected, and {_of_answers(answers)}; a larger model, a higher tier or a lower "
            "min_covered_mass may help",
        )
    return Estimate(confidence, observed, reflected, belief, answers)


def _of_answers(answers: Sequence[Compared]) -> str:
    return f"none of {len(answers)} sampled answers could be read" if answers else "no answers were sampled"
