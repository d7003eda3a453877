"""The pool of a self-refining run: the model's own responses to some of the training questions, with what they were
worth to the weights that generated them. Imports no torch.

One JSON object a line: `id` of the training sample whose response they take the place of, `messages` (the conversation
up to the question), and `responses`, each with `token_ids` and their `logprobs`, as the rewriting service generates
them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish_services.engine.chat import SampleError, TokenizedSample, Turn, prompt_ids
from burnish_services.engine.tokenizer import ChatTokenizer
from burnish_services.training.data import (
    NOT_A_SAMPLE,
    TrainingSample,
    lines_of,
    parse_messages,
    parse_object,
    sample_name,
)

log = logging.getLogger(__name__)

_LEAST = -sys.float_info.max
_NO_LIST = "expected a list `responses` of {token_ids, logprobs}"
_LONGEST_LINE = 1 << 26  # bytes


@dataclass(frozen=True, slots=True)
class PooledResponse:
    """A response as a training sample, and the natural log-probability that its generator gave each of its tokens."""

    sample: TrainingSample
    generator: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """By place of a sample in the training data, the responses, at least one, that take the place of its own."""

    responses: Mapping[int, Sequence[PooledResponse]]

    def __len__(self) -> int:
        return len(self.responses)


EMPTY = Pool({})


def read_pool(path: Path, tokenizer: ChatTokenizer, max_tokens: int, names: Sequence[str]) -> Pool:
    """Reads a pool for the training samples of these names. Questions that are no training samples, and responses that
    are none, are left out and named in the log. Raises OSError."""
    place = {name: index for index, name in enumerate(names)}
    found: dict[int, list[PooledResponse]] = {}
    for number, line in lines_of(path.read_bytes()):
        try:
            value = parse_object(line)
            name = sample_name(value)
            if name not in place:
                raise SampleError(NOT_A_SAMPLE, f"{name!r} is no sample that is trained on")
            prompt = prompt_ids(tokenizer, parse_messages(value), context=max_tokens)
            responses = value.get("responses")
            if not isinstance(responses, list):
                raise SampleError(NOT_A_SAMPLE, _NO_LIST)
        except SampleError as error:
            _left_out(f"line {number}", error)
            continue
        for place_of_response, response in enumerate(responses, start=1):
            try:
                taken = _response(name, prompt, response, max_tokens)
            except SampleError as error:
                _left_out(f"line {number}, response {place_of_response}", error)
                continue
            found.setdefault(place[name], []).append(taken)
    return Pool(found)


def trouble_with(path: Path) -> str:
    """Why the first line that is not blank is no question with responses, in words that follow a subject; empty where
    it is one, or there is none. Raises OSError."""
    with path.open("rb") as stream:
        line = next((line for line in iter(lambda: stream.readline(_LONGEST_LINE), b"") if line.strip()), b"")
    try:
        if line:
            value = parse_object(line)
            name, responses = sample_name(value), value.get("responses")
            parse_messages(value)
            if not isinstance(responses, list):
                raise SampleError(NOT_A_SAMPLE, _NO_LIST)
            trouble = [_trouble(name, response) for response in responses]
            if trouble and all(trouble):  # one alone is left out
                return f"is none: {trouble[0]}"
    except SampleError as error:
        return f"is none: {error.message}"
    return ""


def _trouble(name: str, response: Any) -> str:
    try:
        _response(name, (), response, sys.maxsize)
    except SampleError as error:
        return error.message
    return ""


def _left_out(where: str, error: SampleError) -> None:
    log.warning("pool, %s: left out: %s", where, error.reason)
    log.debug("pool, %s: %s", where, error.message)  # may quote the sample


def _response(name: str, prompt: Sequence[int], value: Any, max_tokens: int) -> PooledResponse:
    """The prompt and the very tokens that were generated; text that is taken apart again may become others."""
    ids = value.get("token_ids") if isinstance(value, dict) else None
    logprobs = value.get("logprobs") if isinstance(value, dict) else None
    if not isinstance(ids, list) or not isinstance(logprobs, list) or not ids or len(ids) != len(logprobs):
        raise SampleError(NOT_A_SAMPLE, "expected token_ids and logprobs, as many of one as of the other, at least one")
    if not all(type(token) is int and 0 <= token < 2**31 for token in ids):
        raise SampleError(NOT_A_SAMPLE, "expected token_ids that are whole numbers >= 0")
    if not all(type(value) in (int, float) and _LEAST <= value <= 1e-3 for value in logprobs):
        raise SampleError(NOT_A_SAMPLE, "expected logprobs that are finite, and not above 0")
    generator = np.array(logprobs, dtype=np.float64)
    whole = [*prompt, *map(int, ids)]
    if len(whole) > max_tokens:
        raise SampleError("TOO_LONG", f"{len(whole)} tokens, expected at most {max_tokens}")
    tokens = TokenizedSample(whole, (Turn(1, len(prompt), len(whole)),))
    return PooledResponse(TrainingSample(name, tokens), generator)
