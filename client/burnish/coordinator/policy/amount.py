"""Shares, and numbers of rows, as people write them: 0.7, 70%, 500. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any


@dataclass(frozen=True, slots=True)
class Amount:
    """Either a share, or a number of rows: below 1 a share, above 1 a number. `one_is_all`: 1 is a share, all of them,
    as 100% is; else it is one row, and there is no 100%."""

    one_is_all: bool

    def parse(self, text: str) -> float:
        """A share such as 15% or 0.15, or a whole number such as 500. Raises ValueError."""
        is_percentage = text.strip().endswith("%")
        try:
            value = _number(text)
        except ValueError:
            raise ValueError(self._expected(repr(text))) from None
        if value <= 0 or (is_percentage and not self._is_share(value)):
            raise ValueError(self._expected(repr(text)))
        return self.checked(value)

    def checked(self, value: float) -> float:
        """The same. Raises ValueError for a number of rows that is not whole."""
        if not self._is_share(value) and not value.is_integer():
            raise ValueError(self._expected(f"{value:g}"))
        return value

    def of(self, value: float, total: int) -> int:
        """How many rows that is of `total`; at least 1, and of a number more where it is more."""
        return max(1, round(value * total)) if self._is_share(value) else int(value)

    def _is_share(self, value: float) -> bool:
        return value < 1 or (self.one_is_all and value == 1)

    def _expected(self, found: str) -> str:
        most = "up to 100%" if self.one_is_all else "below 100%"
        return f"expected a share {most}, such as 15% or 0.15, or a whole number of rows such as 500; found {found}"


PART = Amount(one_is_all=False)  # of what is chosen from, of which all would be no choice
SIZE = Amount(one_is_all=True)  # that is not to be exceeded


def parse_share(value: Any) -> Any:
    """A share as a number, of text such as 70% or 0.7; what is no text or number, as it is. Raises ValueError for other
    text, and for numbers above 1, which are likely meant as a percentage."""
    try:
        share = _number(value) if isinstance(value, str) else value
    except ValueError:
        share = value
    if isinstance(share, str) or (isinstance(share, int | float) and share > 1):
        raise ValueError("expected a share, such as 0.7 or 70%")
    return share


def _number(text: str) -> float:
    """Raises ValueError for what is no number, nor a percentage."""
    stripped = text.strip()
    if not stripped.endswith("%"):
        return float(stripped)
    try:
        return float(Decimal(stripped[:-1]) / 100)  # of floats 99.9 / 100 is not 0.999
    except InvalidOperation as error:
        raise ValueError(str(error)) from error
