"""How much a recipe trusts a row, from the signals that its decision has in the ledger; the higher, the more. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Signals = Mapping[str, "float | None"]
Trust = Callable[[Signals], "float | None"]


def high(name: str) -> Trust:
    """By a signal that is high where a row is good."""
    return lambda signals: signals.get(name)


def low(name: str) -> Trust:
    """By a signal that is low where a row is good."""

    def trust(signals: Signals) -> float | None:
        value = signals.get(name)
        return None if value is None else -value

    return trust
