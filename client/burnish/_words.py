"""Words for protobuf's enum numbers, both ways: DIMENSION_CLARITY = 1 is Dimension.CLARITY, `clarity`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Generic, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from burnish._errors import UsageError

Word = TypeVar("Word", bound=StrEnum)


def enum_words(descriptor: EnumDescriptor) -> Mapping[int, str]:
    """The lower-case word of every value but the unspecified one, without the prefix that buf demands."""
    values = {value.number: value.name for value in descriptor.values if value.number != 0}
    prefix = next(v.name for v in descriptor.values if v.number == 0).removesuffix("UNSPECIFIED")
    return {number: name.removeprefix(prefix).lower() for number, name in values.items()}


class Words(Generic[Word]):
    """Translates between a protobuf enum and a StrEnum of the same words. Raises at import if they differ."""

    def __init__(self, descriptor: EnumDescriptor, words: type[Word]) -> None:
        by_number = enum_words(descriptor)
        if set(by_number.values()) != {word.value for word in words}:
            raise TypeError(f"{words.__name__} and {descriptor.full_name} have different words")
        self._type = words
        self._by_number = {number: words(word) for number, word in by_number.items()}
        self._by_word = {word: number for number, word in self._by_number.items()}
        self._name = descriptor.full_name

    def number(self, word: Word | str) -> Any:
        """The number on the wire (an int; protobuf's stubs give each enum a type of its own). Raises UsageError for
        a word that does not exist."""
        try:
            return self._by_word[self._type(word)]
        except ValueError:
            expected = ", ".join(sorted(self._type))
            raise UsageError(f"{word!r} is no {self._type.__name__}; expected one of {expected}") from None

    def word(self, number: int) -> Word:
        """The word for a number. Raises ValueError for one that this client does not know."""
        try:
            return self._by_number[number]
        except KeyError:
            raise ValueError(
                f"{self._name} has the unknown value {number}; the server may be newer than this client"
            ) from None
