"""The canary: a fixed text whose log-probabilities tell whether an engine really holds the weights it should.

Run after every load, before anything is served: a reload that silently kept the old weights, or left garbage, has
been seen in the wild. Owns the text, how its mean is taken, and the rules; when to run it is `hosting.py`'s business.
The training service writes the numbers of a model it publishes into the model's `burnish.json`:
`{"canary": {"text": CANARY_TEXT, "mean_nll": 2.345}}`, where the mean is over all tokens of `canary_ids` but the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.base import Engine, EngineFailure, ModelLoadError, ScoreRequest, TokenScores
from burnish_services.engine.models import CARD_FILE, read_json
from burnish_services.engine.tokenizer import ChatTokenizer

CANARY_TEXT = (
    "Water boils at 100 degrees Celsius at sea level. Higher up, where the air is thinner, it boils sooner: in La Paz "
    "at about 87 degrees. That is why potatoes take longer to cook there. def double(x): return 2 * x"
)
# Nats by which the mean may differ from what training stated: bfloat16 sums differ between kernels.
CARD_TOLERANCE = 0.05
# The same weights on the same engine, run again.
_REPEAT_TOLERANCE = 0.02


class CanaryFailed(ModelLoadError):
    """The engine answers the canary as these weights cannot."""

    reason = "CANARY_FAILED"


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine said to the canary: log-probabilities, or the vector where it does not score."""

    values: NDArray[np.float32]


def canary_ids(tokenizer: ChatTokenizer, text: str = CANARY_TEXT) -> list[int]:
    """The canary's tokens, with what the tokenizer adds by default."""
    return tokenizer.encode(text, add_special_tokens=True).ids


def mean_nll(logprobs: NDArray[np.float32]) -> float:
    """Mean negative log-likelihood in nats, summed in float64."""
    return -float(np.mean(logprobs, dtype=np.float64))


async def read(engine: Engine, ids: Sequence[int]) -> Reading:
    """Asks the engine. Raises CanaryFailed where it has no answer or one that is not finite."""
    result: TokenScores | NDArray[np.float32] | EngineFailure
    if engine.score_method:
        (result,) = await engine.score([ScoreRequest(ids)])
    else:
        (result,) = await engine.embed([ids])
    if isinstance(result, EngineFailure):
        raise CanaryFailed(f"the canary text has no result: {result.message}")
    values = result.logprobs if isinstance(result, TokenScores) else result
    if not np.isfinite(values).all():
        raise CanaryFailed("the canary text has results that are not finite; the weights are damaged")
    return Reading(values)


def check_repeats(now: Reading, before: Reading) -> None:
    """Raises CanaryFailed where the same weights, loaded earlier in this process, answered otherwise."""
    if now.values.shape != before.values.shape or not np.allclose(
        now.values, before.values, rtol=_REPEAT_TOLERANCE, atol=_REPEAT_TOLERANCE
    ):
        raise CanaryFailed("these weights answered the canary differently when they were loaded earlier")


def check_differs(now: Reading, previous: Reading) -> None:
    """Raises CanaryFailed where the weights held before gave the very same bits: the load changed nothing."""
    if np.array_equal(now.values, previous.values):
        raise CanaryFailed(
            "the canary gives bit for bit what the previous weights gave, though the files differ: the engine kept "
            "the old weights"
        )


async def check_card(engine: Engine, directory: Path) -> None:
    """Raises CanaryFailed where the model's `burnish.json` states a mean that the engine does not give; without such
    a file, or on an engine that does not score, nothing is checked."""
    stated = _stated_canary(directory)
    if stated is None or not engine.score_method:
        return
    text, expected = stated
    found = mean_nll((await read(engine, canary_ids(engine.tokenizer, text))).values)
    if abs(found - expected) > CARD_TOLERANCE * max(1.0, expected):
        raise CanaryFailed(
            f"the canary's mean is {found:.4f} nats, but {directory / CARD_FILE} states {expected:.4f}: these are not "
            "the weights that were trained, or the engine computes them wrongly"
        )


def _stated_canary(directory: Path) -> tuple[str, float] | None:
    path = directory / CARD_FILE
    if not path.is_file():
        return None
    canary: Any = read_json(path).get("canary")
    if canary is None:
        return None
    try:
        return str(canary["text"]), float(canary["mean_nll"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{path}: expected canary to hold text and mean_nll ({error!r})") from error
