"""What a judge can be shown: whether a conversation has anything to judge."""

from __future__ import annotations

from collections.abc import Sequence

from burnish_services.engine.base import EngineFailure
from burnish_services.engine.chat import EMPTY_PROMPT, EMPTY_RESPONSE, SampleError, validate_messages
from burnish_services.engine.tokenizer import ChatMessage


def refusal(messages: Sequence[ChatMessage]) -> EngineFailure | None:
    """Why nothing can be asked about the conversation: BAD_ROLES or EMPTY_PROMPT; None where something can."""
    try:
        validate_messages(messages)
    except SampleError as error:
        return EngineFailure(error.reason, error.message)
    if not has_text(messages, "user"):
        return EngineFailure(EMPTY_PROMPT, "the user's messages are empty; there is nothing to judge")
    return None


def no_response(messages: Sequence[ChatMessage]) -> EngineFailure | None:
    """EMPTY_RESPONSE where the assistant said nothing."""
    if has_text(messages, "assistant"):
        return None
    return EngineFailure(EMPTY_RESPONSE, "the assistant's messages are empty; there is no response to rate")


def has_text(messages: Sequence[ChatMessage], role: str) -> bool:
    """Whether any message of that role has more than whitespace."""
    return any(message.content.strip() for message in messages if message.role == role)
