"""The failures of single requests that every engine reports alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.base import EngineFailure, Generation, ScoreRequest, TokenScores

TOO_LONG = "TOO_LONG"
NOT_FINITE = "NOT_FINITE"
EMPTY = "EMPTY"
BAD_TOKEN = "BAD_TOKEN"  # noqa: S105 - of a vocabulary
ENGINE_ERROR = "ENGINE_ERROR"
UNSUPPORTED = "UNSUPPORTED"


def refused(ids: Sequence[int], limit: int, vocab_size: int) -> EngineFailure | None:
    """Why a sequence cannot enter an engine whose sequences have 1 to `limit` tokens; None where it can."""
    if not len(ids):
        return EngineFailure(EMPTY, "the sequence has no tokens, at least 1 expected")
    if len(ids) > limit:
        return EngineFailure(TOO_LONG, f"{len(ids)} tokens, at most {limit} fit the context; shorten the text")
    if min(ids) < 0 or max(ids) >= vocab_size:
        return EngineFailure(
            BAD_TOKEN,
            f"token {min(ids) if min(ids) < 0 else max(ids)} is outside the vocabulary of {vocab_size}; the text was "
            "made into tokens by another model's tokenizer",
        )
    return None


def no_neurons(request: ScoreRequest, neurons: tuple[int, int] | None) -> EngineFailure | None:
    """Why a request cannot be told what the neurons did; None where it can, or does not ask."""
    if request.activations is None or neurons is not None:
        return None
    return EngineFailure(
        UNSUPPORTED,
        "the activations of this model's neurons cannot be had: they are read in models with one feed-forward network "
        "a layer, all of the same width, and on vllm by Burnish's plugin in eager execution (compile off)",
    )


def checked(values: NDArray[np.float32]) -> NDArray[np.float32] | EngineFailure:
    """The values, or the failure NOT_FINITE where any is NaN or infinite."""
    if np.isfinite(values).all():
        return values
    bad = int(np.count_nonzero(~np.isfinite(values)))
    return EngineFailure(
        NOT_FINITE, f"{bad} of {values.size} values are not finite; the weights or the device are at fault"
    )


def checked_scores(scores: TokenScores) -> TokenScores | EngineFailure:
    """The scores, or the failure NOT_FINITE where any of their numbers is NaN or infinite."""
    parts = (scores.logprobs, scores.entropies, scores.margins, scores.mean_hidden, scores.activations)
    result = checked(np.concatenate([part.ravel() for part in parts if part is not None]))
    return result if isinstance(result, EngineFailure) else scores


def checked_generation(generation: Generation) -> Generation | EngineFailure:
    """The continuation, or the failure NOT_FINITE where any of its log-probabilities is NaN or infinite."""
    result = checked(np.asarray(generation.logprobs or (), np.float32))
    return result if isinstance(result, EngineFailure) else generation
