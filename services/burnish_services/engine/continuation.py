"""One continuation of a prompt as it grows token by token, and where it ends."""

from __future__ import annotations

from burnish_services.engine.base import GenerateRequest, Generation
from burnish_services.engine.hf_tokenizer import HfTokenizer


class Continuation:
    """What is said to one request, of at most `room` tokens."""

    def __init__(self, request: GenerateRequest, room: int, tokenizer: HfTokenizer) -> None:
        self._request = request
        self._room = min(request.sampling.max_tokens, room)
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._text = self._reason = ""

    def add(self, token: int, logprob: float | None) -> bool:
        """Takes the next token, with its log-probability in nats where that is asked for; True where more is wanted."""
        self._tokens.append(token)
        self._logprobs += [] if logprob is None else [logprob]
        stops = self._request.sampling.stop
        text = self._tokenizer.decode(self._tokens) if stops else ""
        found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
        if found:
            self._text, self._reason = text[: min(found)], "stop"
        elif token in self._tokenizer.stop_token_ids:
            self._text, self._reason = self._tokenizer.decode(self._tokens), "stop"
        elif len(self._tokens) == self._room:
            self._text, self._reason = self._tokenizer.decode(self._tokens), "length"
        return not self._reason

    def generation(self) -> Generation:
        """The whole, once `add` wanted no more."""
        logprobs = tuple(self._logprobs) if self._request.logprobs else None
        return Generation(self._text, tuple(self._tokens), self._reason, logprobs)
