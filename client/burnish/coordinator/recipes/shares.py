"""Shares, and numbers of rows, as types of settings: plain numbers, so that a run is the same run however they were
written (`policy/amount.py`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from burnish.coordinator.policy.amount import PART, SIZE, Amount, parse_share


def _read(amount: Amount) -> BeforeValidator:
    def read(value: Any) -> Any:
        return amount.parse(value) if isinstance(value, str) else value

    return BeforeValidator(read)


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Part = Annotated[Positive, _read(PART), AfterValidator(PART.checked)]
Size = Annotated[Positive, _read(SIZE), AfterValidator(SIZE.checked)]
Share = Annotated[float, BeforeValidator(parse_share)]
