"""JSON text as values: what Python's parser may raise, as one error."""

from __future__ import annotations

import json
from typing import Any


class NotJson(ValueError):
    """Why a text is no JSON; for people, without the place of the text."""


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises NotJson, also for a number or a depth that Python does not take."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJson(why_not_json(error)) from None


def why_not_json(error: Exception) -> str:
    """What a parser's error says, in few words."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    return "a number has too many digits"
