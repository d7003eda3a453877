"""What a row of a task is. Pure."""

from __future__ import annotations

from typing import Protocol, TypeVar


class Row(Protocol):
    """A right row. Those of one `group` are on one side only; those with one `wording_of` ask the same."""

    @property
    def prompt(self) -> str:
        """All that a model is asked."""

    @property
    def answer(self) -> str:
        """What is right."""

    @property
    def group(self) -> str:
        """What rows share that must not be learnt on one side and asked on the other."""

    @property
    def wording_of(self) -> str:
        """What is asked, however it is worded."""


RowT = TypeVar("RowT", bound=Row)


def plain(text: str) -> str:
    """Without what spaces and case make of it."""
    return " ".join(text.casefold().split())
