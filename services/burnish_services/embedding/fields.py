"""Reading a request's fields: what is allowed in them, and what 0 means."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from burnish_services.runtime.errors import InvalidRequest

Word = TypeVar("Word", bound=StrEnum)
_SHOWN = 160  # characters of a bad name that a message repeats
_NAME = re.compile(r"[a-z0-9_-]{1,128}")


class Words(Generic[Word]):
    """A proto enum's numbers and our words for them: TEXT_SOURCE_ALL = 3 is Source.ALL, "all". `field` is the request's
    name for it. Raises ValueError at import where they differ."""

    def __init__(self, field: str, descriptor: EnumDescriptor, words: type[Word]) -> None:
        prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
        named = {value.number: value.name.removeprefix(prefix).lower() for value in descriptor.values if value.number}
        if set(named.values()) != set(words):
            raise ValueError(f"{descriptor.full_name} and {words.__name__} have different words")
        self._field = field
        self._words = {number: words(name) for number, name in named.items()}
        self._numbers = {word: number for number, word in self._words.items()}

    def word(self, number: int, default: Word) -> Word:
        """The word for a number; `default` for 0. Raises InvalidRequest."""
        found = self.optional(number)
        return default if found is None else found

    def optional(self, number: int) -> Word | None:
        """The word for a number; None for 0. Raises InvalidRequest."""
        if number and number not in self._words:
            raise InvalidRequest(
                f"BAD_{self._field.upper()}",
                f"{self._field} is {number}; expected one of the enum's values",
                field=self._field,
            )
        return self._words.get(number)

    def number(self, word: Word) -> Any:  # of the enum's own type, which mypy-protobuf tells apart from int
        """The number for a word."""
        return self._numbers[word]


def checked_name(name: str, field: str = "collection") -> str:
    """The name, which becomes a part of a path; `field` is where it stands in the request. Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "BAD_NAME",
            f"{field} is {name[:_SHOWN]!r}; expected a name of 1 to 128 characters of a-z, 0-9, - and _",
            field=field,
        )
    return name


def in_range(field: str, number: int, default: int, largest: int, least: int = 1) -> int:
    """A number from `least` to `largest`; `default` for 0. Raises InvalidRequest."""
    if number and not least <= number <= largest:
        raise InvalidRequest(
            f"BAD_{field.upper()}",
            f"{field} is {number}; expected {least} to {largest}, or 0 for {default}",
            field=field,
        )
    return number or default


def share(field: str, number: float, default: float, *, upto: bool = False) -> float:
    """A number between 0 and 1, `upto` 1 included; `default` for 0. Raises InvalidRequest."""
    if number == 0:
        return default
    if not (0 < number < 1 or (upto and number == 1)):
        raise InvalidRequest(
            f"BAD_{field.upper()}", f"{field} is {number}; expected it between 0 and 1, or 0 for {default}", field=field
        )
    return number
