"""How much a recipe trusts a row, from the signals that its decision has in the ledger; the higher, the more. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Signals = Mapping[str, "float | None"]
Trust = Callable[[Signals], "float | None"]


def high(*names: str) -> Trust:
    """By a signal that is high where a row is good: the first of several that it has."""
    return lambda signals: next((signals[name] for name in names if name in signals), None)


def low(name: str) -> Trust:
    """By a signal that is low where a row is good."""

    def trust(signals: Signals) -> float | None:
        value = signals.get(name)
        return None if value is None else -value

    return trust
