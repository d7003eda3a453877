"""Shares and numbers of rows as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from burnish.coordinator.policy.amount import PART, SIZE, Amount
from burnish.coordinator.recipes.shares import Part, Share, Size

AS_PART: TypeAdapter[float] = TypeAdapter(Part)
AS_SIZE: TypeAdapter[float] = TypeAdapter(Size)
AS_SHARE: TypeAdapter[float] = TypeAdapter(Share)


@pytest.mark.parametrize(
    ("written", "part", "size"),
    [("15%", 0.15, 0.15), ("0.15", 0.15, 0.15), (0.5, 0.5, 0.5), ("7", 7, 7), (500, 500, 500), ("1", 1, 1), (1, 1, 1)],
)
def test_an_amount_is_a_share_or_a_number(written: Any, part: float, size: float) -> None:
    assert (AS_PART.validate_python(written), AS_SIZE.validate_python(written)) == (part, size)


@pytest.mark.parametrize(("amount", "rows"), [(PART, 1), (SIZE, 40)])
def test_one_is_all_of_a_size_and_one_row_of_a_part(amount: Amount, rows: int) -> None:
    assert amount.of(1, 40) == rows
    assert [amount.of(value, 40) for value in (0.001, 0.5, 7, 55)] == [1, 20, 7, 55]


def test_all_of_them_is_a_size_and_no_part() -> None:
    assert AS_SIZE.validate_python("100%") == 1
    with pytest.raises(ValidationError, match=r"expected a share below 100%, .* found '100%'"):
        AS_PART.validate_python("100%")


@pytest.mark.parametrize("kind", [AS_PART, AS_SIZE])
@pytest.mark.parametrize("written", ["200%", "101%", "0%", "-5%", "0", -1, 0, 1.5, "1.5", "few", "%", "inf%", "nan"])
def test_other_amounts_are_refused(kind: TypeAdapter[float], written: object) -> None:
    with pytest.raises(ValidationError):
        kind.validate_python(written)


@pytest.mark.parametrize(("written", "value"), [("70%", 0.7), (" 70 %", 0.7), ("0.7", 0.7), (0.7, 0.7), (1, 1), (0, 0)])
def test_a_share_is_written_either_way(written: object, value: float) -> None:
    assert AS_SHARE.validate_python(written) == value


@pytest.mark.parametrize("written", ["70", 70, "seventy", "170%", 1.01])
def test_what_is_no_share_is_told_how_one_is_written(written: object) -> None:
    with pytest.raises(ValidationError, match=r"expected a share, such as 0\.7 or 70%"):
        AS_SHARE.validate_python(written)
