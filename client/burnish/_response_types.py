"""What `client.rewriting.respond` takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from burnish._types import ItemStatus, Message, ModelVersion, Timing


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends in the user's message, to respond to; `id` is unique within a call."""

    id: str
    messages: tuple[Message, ...]


class FinishReason(StrEnum):
    """How a response came to its end."""

    STOP = "stop"  # the model ended it
    LENGTH = "length"  # cut off at max_tokens or the end of the context


@dataclass(frozen=True, slots=True)
class GeneratedResponse:
    """One response. `mean_logprob` (nats, <= 0) is the model's own, before any sampling parameter; `token_ids` and
    `logprobs`, shape (num_tokens,), only where they were asked for. `rejection`: with `check`, a lower-case word of the
    proto's Rejection, empty where nothing is wrong, and `rejection_detail` for people."""

    text: str
    finish_reason: FinishReason
    num_tokens: int
    mean_logprob: float
    token_ids: NDArray[np.int32] | None = None
    logprobs: NDArray[np.float32] | None = None
    rejection: str = ""
    rejection_detail: str = ""


@dataclass(frozen=True, slots=True)
class PromptResponses:
    """What was said to one prompt; nothing where `status` is not ok."""

    prompt_id: str
    status: ItemStatus
    responses: tuple[GeneratedResponse, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseBatch:
    """Reply of `rewriting.respond`."""

    model: ModelVersion
    results: tuple[PromptResponses, ...]
    timing: Timing
