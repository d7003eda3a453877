"""Conversations as tokens, and exactly which of those tokens the assistant has to produce.

Pure functions over a `ChatTokenizer`. Scoring and training both call `tokenize_sample`, so they agree token for
token. Owns the rules for a valid conversation and for the mask; not the template itself (the tokenizer's) and not the
context limit (the engine's, which may be passed in).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from burnish_services.engine.base import Sampling
from burnish_services.engine.literals import guard
from burnish_services.engine.tokenizer import ChatMessage, ChatTokenizer

BAD_ROLES = "BAD_ROLES"
EMPTY_PROMPT = "EMPTY_PROMPT"
EMPTY_RESPONSE = "EMPTY_RESPONSE"
TEMPLATE_FAILED = "TEMPLATE_FAILED"
TOO_LONG = "TOO_LONG"
_MOST_CHARACTERS = 256  # of a conversation for each token that fits: far more than a token has, on average
_MARK = "\U0010fffd"  # of a private-use plane that no placeholder is of


class TemplateError(ValueError):
    """A chat template refused a conversation or could not be read; the message is the template's own."""


class SampleError(ValueError):
    """Why one sample cannot be turned into tokens; `reason` is one of this module's constants."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Turn:
    """The response tokens of one assistant message: positions [start, end) of the sequence, start >= 1."""

    message_index: int
    start: int
    end: int


class Span(StrEnum):
    """Tokens of a conversation that something may be averaged over."""

    USER = "user"  # the contents of the user's messages
    RESPONSE = "response"  # the response tokens
    ALL = "all"  # everything, the template's tokens included


@dataclass(frozen=True, slots=True)
class TokenizedSample:
    """A whole conversation as tokens, and the turns that are scored or trained on, in order."""

    ids: list[int]
    turns: tuple[Turn, ...]
    # Positions [start, end) of the user's messages' contents, in order; those that a template leaves out are missing.
    user: tuple[tuple[int, int], ...] = ()

    @property
    def num_response_tokens(self) -> int:
        """Response tokens over all turns, >= 1."""
        return sum(turn.end - turn.start for turn in self.turns)


def validate_messages(messages: Sequence[ChatMessage]) -> None:
    """Raises SampleError(BAD_ROLES) unless there is at most one system message, first, and then user and assistant
    messages in turn, user first, at least one."""
    if not messages:
        raise SampleError(BAD_ROLES, "the conversation has no messages; expected a user message first")
    expected = "user"
    for index, message in enumerate(messages):
        if index == 0 and message.role == "system":
            continue
        if message.role != expected:
            raise SampleError(
                BAD_ROLES,
                f"message {index} has role {message.role!r}, expected {expected!r}: at most one system message, "
                "first, then user and assistant in turn, user first",
            )
        expected = "assistant" if expected == "user" else "user"
    if messages[-1].role == "system":
        raise SampleError(BAD_ROLES, "the conversation has only a system message; expected a user message after it")


def tokenize_sample(
    tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], *, max_tokens: int | None = None
) -> TokenizedSample:
    """The conversation, which must end in an assistant message, as tokens with its response tokens marked.

    A turn's response tokens are all that hold a character of its content or of the token that ends it (and of what a
    template writes between header and content, which the model would have to write too); not the header, not what
    follows the end token. With `max_tokens`, longer conversations are refused, never cut.

    Raises SampleError: BAD_ROLES, EMPTY_RESPONSE, TEMPLATE_FAILED, TOO_LONG.
    """
    validate_messages(messages)
    if messages[-1].role != "assistant":
        raise SampleError(BAD_ROLES, "the last message is the user's; expected an assistant message to score")
    check_size(messages, max_tokens)
    for index, message in enumerate(messages):
        if message.role == "assistant" and not message.content.strip():
            raise SampleError(EMPTY_RESPONSE, f"message {index}, the assistant's, is empty; there is nothing to score")
    messages, literals = guard(tokenizer, messages)
    text = _render(tokenizer, messages, add_generation_prompt=False)
    regions = list(_response_regions(tokenizer, messages, text))
    encoding = tokenizer.encode(text, literals=literals)
    _check_length(len(encoding.ids), max_tokens)
    starts, ends = [start for start, _ in encoding.spans], [end for _, end in encoding.spans]

    def positions(start: int, end: int) -> tuple[int, int]:
        # A token that straddles an edge counts: leaving it out would leave out a part of the content.
        return bisect_right(ends, start), bisect_left(starts, end)

    turns = []
    for index, start, end in regions:
        first, last = positions(start, end)
        # A header's token that takes in the white space after it is the header's all the same.
        while first < last and starts[first] < start and text.startswith(tokenizer.special_texts, starts[first]):
            first += 1
        if not 1 <= first < last:
            raise SampleError(
                TEMPLATE_FAILED,
                f"the response tokens of message {index} could not be found (positions {first} to {last}); the chat "
                "template must write something before the response",
            )
        turns.append(Turn(index, first, last))
    user = (positions(*region) for region in _user_regions(tokenizer, messages, text, regions))
    return TokenizedSample(encoding.ids, tuple(turns), tuple(user))


def span_positions(sample: TokenizedSample, span: Span) -> tuple[tuple[int, int], ...]:
    """The positions [start, end) that `span` names, in order."""
    if span is Span.USER:
        return sample.user
    if span is Span.RESPONSE:
        return tuple((turn.start, turn.end) for turn in sample.turns)
    return ((0, len(sample.ids)),)


def prompt_ids(
    tokenizer: ChatTokenizer,
    messages: Sequence[ChatMessage],
    *,
    max_tokens: int | None = None,
    context: int | None = None,
) -> list[int]:
    """Tokens to generate an answer from: the conversation, which must end in a user message, and the template's
    header of the assistant's turn. `context`: tokens that there is room for; what is far beyond is refused uncounted,
    what is a little beyond is the caller's to refuse.

    Raises SampleError: BAD_ROLES, EMPTY_PROMPT, TEMPLATE_FAILED, and TOO_LONG beyond `max_tokens`.
    """
    validate_messages(messages)
    if messages[-1].role != "user":
        raise SampleError(BAD_ROLES, "the last message is the assistant's; expected a user message to answer")
    check_size(messages, context if max_tokens is None else max_tokens)
    if not messages[-1].content.strip():
        raise SampleError(EMPTY_PROMPT, "the last user message is empty; there is nothing to answer")
    messages, literals = guard(tokenizer, messages)
    ids = tokenizer.encode(_render(tokenizer, messages, add_generation_prompt=True), literals=literals).ids
    _check_length(len(ids), max_tokens)
    return ids


def fitted(ids: Sequence[int], sampling: Sampling, context: int, *, least: int, what: str) -> Sampling:
    """How to sample a reply to a prompt of these tokens: as `sampling` says, and no longer than the `context` has room.
    Raises SampleError(TOO_LONG) where that is for fewer than `least` tokens; `what` says of which prompt."""
    room = context - len(ids)
    if room < least:
        raise SampleError(
            TOO_LONG,
            f"{what} takes {len(ids)} of {context} tokens and leaves no room for a reply; shorten it or use a model "
            "with a longer context",
        )
    return replace(sampling, max_tokens=min(sampling.max_tokens, room))


def _response_regions(
    tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], text: str
) -> Iterator[tuple[int, int, int]]:
    """For each assistant message: its index and the characters [start, end) of `text` that its response takes."""
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        head = _render(tokenizer, messages[:index], add_generation_prompt=True)
        last = index == len(messages) - 1
        tail = text if last else _render(tokenizer, messages[: index + 1], add_generation_prompt=False)
        if not (tail.startswith(head) and text.startswith(tail)):
            raise SampleError(
                TEMPLATE_FAILED,
                f"the chat template rewrites history: the conversation up to message {index} is not written the same "
                "way once more follows, so its response tokens cannot be told exactly; use another template, or "
                "split the conversation into single turns",
            )
        yield index, len(head), _end_of_response(tokenizer, tail, len(head), index, message.content)


def _user_regions(
    tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], text: str, responses: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, int]]:
    """The characters [start, end) of `text` that each user message's content takes."""
    after = 0
    for index, begin, end in responses:
        content = messages[index - 1].content.strip()
        at = text.rfind(content, after, begin)
        if content and at >= 0:
            if text.find(content, after, begin) != at:  # as of “user”, which the template writes too
                at = _place_of(tokenizer, messages[:index], content, text, begin, at)
            yield at, at + len(content)
        after = end


def _place_of(
    tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], content: str, text: str, end: int, otherwise: int
) -> int:
    """Where the content of the last message, which stands in `text` before `end` several times, begins: where the
    template writes another content in its place. `otherwise` if it does not tell."""
    marked = [*messages[:-1], ChatMessage(messages[-1].role, _MARK)]
    before, found, _ = _render(tokenizer, marked, add_generation_prompt=True).partition(_MARK)
    at = text.find(content, len(before), end) if found and text.startswith(before) else -1
    return at if at >= 0 else otherwise


def _end_of_response(tokenizer: ChatTokenizer, tail: str, start: int, index: int, content: str) -> int:
    """The character after the token that ends the turn; after the content where the template has no end token."""
    wanted = content.strip()  # templates may strip; what whitespace they keep is inside the region anyway
    at = tail.find(wanted, start)
    if at < 0:
        raise SampleError(
            TEMPLATE_FAILED,
            f"the chat template changes the text of message {index}; expected the assistant's words as they are",
        )
    after = at + len(wanted)
    # Searched behind the content only: the content itself may hold such a marker.
    found = [(tail.find(token, after), len(token)) for token in tokenizer.end_tokens]
    ends = [(position, -length) for position, length in found if position >= 0]
    if not ends:
        return after
    position, negative_length = min(ends)
    return position - negative_length


def _render(tokenizer: ChatTokenizer, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
    try:
        return tokenizer.render(messages, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        raise SampleError(TEMPLATE_FAILED, f"the chat template refused the conversation: {error}") from error


def check_size(messages: Sequence[ChatMessage], limit: int | None) -> None:
    """Refuses what is so long that its tokens need not be counted: as lists they take far more memory than the text."""
    if limit is None:
        return
    characters = sum(len(message.content) for message in messages)
    if len(messages) > limit or characters > _MOST_CHARACTERS * limit:
        raise SampleError(
            TOO_LONG,
            f"{len(messages)} messages of {characters} characters, which cannot be the {limit} tokens that at most fit"
            " the context; shorten or split the sample",
        )


def _check_length(length: int, limit: int | None) -> None:
    if limit is not None and length > limit:
        raise SampleError(TOO_LONG, f"{length} tokens, at most {limit} fit the context; shorten or split the sample")
