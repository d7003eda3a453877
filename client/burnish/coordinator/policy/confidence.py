"""CLEAR's confidence put together from what was measured (arXiv 2308.16175 §3, 2403.12776). Pure.

    C = beta O + (1 - beta) S,   O = mean_i [alpha s_i + (1 - alpha) r_i],   S = the model's own verdicts      in [0, 1]

The service reports the parts; here they are combined, so that other weights cost no further pass. A part that is
missing leaves its weight to the others; nothing is ever filled in for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.coordinator.policy.signals import weakest_nll

VERDICTS = ("correct", "incorrect", "not sure")
ORDERS_PER_QUESTION = len(VERDICTS)
# From where on verdicts say little.
_MOST_FLIPS = 0.5  # share of questions whose likeliest verdict hangs on the order of the answers
_LEAST_SPREAD = 0.02  # deviation of S, below which it tells samples apart by noise
_MOST_UNREADABLE = 0.5  # share of samples whose letters were too unlikely
_LEAST_MIXED = 0.05  # share of samples with, and share without a readable answer, from which on the two are mixed


@dataclass(frozen=True, slots=True)
class Weights:
    """alpha: similarity against exact match; beta: consistency against reflection; `likelihood`: mean token probability
    against all the rest. Reflection counts where its letters had at least `min_covered_mass` of the probability."""

    alpha: float = 0.8
    beta: float = 0.7
    likelihood: float = 0.0
    min_covered_mass: float = 0.5


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One answer that the model gave itself: s_i and r_i, None where none could be read, and then `reply` and why."""

    text: str
    similarity: float | None
    exact_match: bool | None
    reply: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of one sample under one set of weights. `verdicts`: each question in each order of its
    answers, p(correct), p(incorrect), p(not sure), and `masses` the probability that the letters had at all;
    `rating`: the model's own, in [0, 10]."""

    verdicts: tuple[tuple[float, float, float], ...] = ()
    masses: tuple[float, ...] = ()
    answers: tuple[SampledAnswer, ...] = ()
    mean_nll: float | None = None
    mean_probability: float | None = None
    rating: float | None = None
    min_probability: float | None = None  # of the response's tokens

    @property
    def covered_mass(self) -> float:
        """Mean over the questions, in [0, 1]; 0 of none."""
        return math.fsum(self.masses) / len(self.masses) if self.masses else 0.0


def reflection(evidence: Evidence, weights: Weights) -> float | None:
    """S: mean over the verdicts of p(correct) + p(not sure) / 2; None where the letters were too unlikely."""
    if not evidence.verdicts or evidence.covered_mass < weights.min_covered_mass:
        return None
    return math.fsum(right + 0.5 * unsure for right, _, unsure in evidence.verdicts) / len(evidence.verdicts)


def consistency(evidence: Evidence, weights: Weights) -> float | None:
    """O: mean agreement of the answers that could be read; None of none."""
    agreements = [
        weights.alpha * answer.similarity + (1.0 - weights.alpha) * answer.exact_match
        for answer in evidence.answers
        if answer.similarity is not None and answer.exact_match is not None
    ]
    return math.fsum(agreements) / len(agreements) if agreements else None


def combined(evidence: Evidence, weights: Weights) -> float | None:
    """C; None where neither O nor S is there."""
    parts = [
        (weight, value)
        for weight, value in (
            (weights.beta, consistency(evidence, weights)),
            (1.0 - weights.beta, reflection(evidence, weights)),
        )
        if value is not None
    ]
    if not parts:
        return None
    total = math.fsum(weight for weight, _ in parts)
    # beta = 1 with O missing leaves S all of the weight there is.
    own = math.fsum(w * v for w, v in parts) / total if total else math.fsum(v for _, v in parts) / len(parts)
    if not weights.likelihood or evidence.mean_probability is None:
        return own
    return (1.0 - weights.likelihood) * own + weights.likelihood * evidence.mean_probability


def signals_of(evidence: Evidence, weights: Weights) -> Mapping[str, float]:
    """Every signal that a filter may go by and that is there, higher meaning better: all in [0, 1] but `rating`, which
    is in [0, 10], and `weakest`, the log-probability of the least likely token. `likelihood` is exp(mean
    log-probability)."""
    largest = weakest_nll(evidence.min_probability)
    signals = {
        "confidence": combined(evidence, weights),
        "consistency": consistency(evidence, weights),
        "reflection": reflection(evidence, weights),
        "likelihood": None if evidence.mean_nll is None else math.exp(-evidence.mean_nll),
        "rating": evidence.rating,
        "weakest": None if largest is None else -largest,
    }
    return {name: value for name, value in signals.items() if value is not None}


@dataclass(frozen=True, slots=True)
class ReflectionHealth:
    """Whether the verdicts say anything: mean and deviation of S over the samples, the share of questions whose
    likeliest verdict changed with the order that the answers were shown in, and the share of samples whose letters
    were too unlikely."""

    num_samples: int
    mean: float
    std: float
    flip_share: float
    unreadable_share: float


def reflection_health(evidence: Sequence[Evidence], weights: Weights) -> ReflectionHealth | None:
    """None where nothing was asked."""
    asked = [one for one in evidence if one.verdicts]
    if not asked:
        return None
    values = [value for one in asked if (value := reflection(one, weights)) is not None]
    mean = math.fsum(values) / len(values) if values else math.nan
    std = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)) if values else math.nan
    flips = [flip for one in asked for flip in _flips(one.verdicts)]
    return ReflectionHealth(len(asked), mean, std, sum(flips) / len(flips), 1 - len(values) / len(asked))


def _flips(verdicts: Sequence[tuple[float, float, float]]) -> list[bool]:
    """For each question, whether its likeliest verdict is not the same in every order."""
    likeliest = [max(range(3), key=verdict.__getitem__) for verdict in verdicts]
    starts = range(0, len(likeliest), ORDERS_PER_QUESTION)
    return [len(set(likeliest[start : start + ORDERS_PER_QUESTION])) > 1 for start in starts]


def reflection_notes(health: ReflectionHealth, *, tier: str) -> list[str]:
    """A warning where the model's own verdicts carry no information, with the numbers and what would help."""
    why = []
    if health.unreadable_share > _MOST_UNREADABLE:
        why.append(f"in {health.unreadable_share:.0%} of {health.num_samples} samples the letters were too unlikely")
    if health.std < _LEAST_SPREAD:
        why.append(f"over {health.num_samples} samples it is {health.mean:.3f} with a deviation of {health.std:.4f}")
    if health.flip_share > _MOST_FLIPS:
        why.append(f"{health.flip_share:.0%} of the verdicts change with the order that the answers are shown in")
    if not why:
        return []
    instead = "--tier standard, and --beta 1" if tier == "fast" else "--beta 1"
    return [
        f"self-reflection says little here: {'; '.join(why)}. {instead} goes by sampled answers alone, --signal"
        " weakest by the response's least likely token; a larger --model can reflect."
    ]


def mixture_notes(evidence: Sequence[Evidence], weights: Weights) -> list[str]:
    """A warning where confidence is made of different parts for different samples, so that the line between them is
    drawn by whether an answer could be read more than by what it said."""
    sampled = [one for one in evidence if one.answers]
    pairs = [(consistency(one, weights) is not None, combined(one, weights)) for one in sampled]
    whole = [value for read, value in pairs if value is not None and read]
    partial = [value for read, value in pairs if value is not None and not read]
    if min(len(whole), len(partial)) <= _LEAST_MIXED * len(sampled):
        return []
    unread_mean, read_mean = (math.fsum(values) / len(values) for values in (partial, whole))
    return [
        f"in {len(partial)} of {len(sampled)} samples not one sampled answer could be read, so that their confidence is"
        f" reflection alone: {unread_mean:.3f} in the mean, {read_mean:.3f} for the others. The two cannot be compared,"
        " and the filter tells them apart by that. More --answer-max-tokens or a larger --model may help; --signal"
        " weakest needs no answers."
    ]
