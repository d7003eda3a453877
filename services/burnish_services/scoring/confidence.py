"""BSDetector's confidence in a response (arXiv 2308.16175), and CLEAR's use of it (2403.12776). Pure.

    C = β·O + (1 − β)·S                                              all in [0, 1]
    O = mean_i o_i,   o_i = α·s_i + (1 − α)·r_i                      agreement of sampled answer i with the response
    S = mean_q [p_q(correct) + ½ p_q(not sure)]                      the model's own verdicts

s_i is similarity (1 − p(contradiction) averaged over both orders, or word overlap), r_i whether the answers are the
same. The published verdicts are letters in a reply, worth 1, 0 and ½; here S is their expectation over the letters'
probabilities: the same scale, without chance and almost without ties. A part that is missing leaves its weight to the
others; nothing is ever filled in for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The ACL text gives no numbers; uqlm attributes .56 NLI, .14 exact match, .30 self-judging to it.
ALPHA = 0.8
BETA = 0.7
NUM_ANSWERS = 5


@dataclass(frozen=True, slots=True)
class Weights:
    """α, β as above; `likelihood` is the weight of the response's mean token probability against all the rest."""

    alpha: float = ALPHA
    beta: float = BETA
    likelihood: float = 0.0


def similarity_from_contradiction(forward: float, backward: float) -> float:
    """s_i = ½[(1 − p_contra(y_i, y)) + (1 − p_contra(y, y_i))]: neutral counts as similar."""
    return 1.0 - 0.5 * (forward + backward)


def agreement(similarity: float, exact_match: bool, alpha: float) -> float:
    """o_i = α·s_i + (1 − α)·r_i."""
    return alpha * similarity + (1.0 - alpha) * exact_match


def reflection(verdicts: Sequence[tuple[float, float, float]]) -> float | None:
    """S: mean over verdicts, each (p(correct), p(incorrect), p(not sure)), which add up to 1; None of none."""
    if not verdicts:
        return None
    return math.fsum(correct + 0.5 * unsure for correct, _, unsure in verdicts) / len(verdicts)


def consistency(agreements: Sequence[float]) -> float | None:
    """O: mean agreement; None of none."""
    return math.fsum(agreements) / len(agreements) if agreements else None


def combined(
    observed: float | None, reflected: float | None, mean_probability: float, weights: Weights
) -> float | None:
    """C, with the likelihood mixed in as (1 − w)·C + w·p; None where neither O nor S is there."""
    parts = [
        (weight, value)
        for weight, value in ((weights.beta, observed), (1.0 - weights.beta, reflected))
        if value is not None
    ]
    total = math.fsum(weight for weight, _ in parts)
    if not parts:
        return None
    # β = 1 with O missing leaves S all of the weight there is.
    own = math.fsum(w * v for w, v in parts) / total if total else math.fsum(v for _, v in parts) / len(parts)
    return (1.0 - weights.likelihood) * own + weights.likelihood * mean_probability


def preference(orders: Sequence[tuple[float, float, float]]) -> float:
    """P(second ≻ first): mean over the orders shown, each (p(first), p(second), p(tie)), of p(second) + ½ p(tie)."""
    return math.fsum(second + 0.5 * tie for _, second, tie in orders) / len(orders)
