"""Every signal that a filter's scoring pass leaves in the ledger against the truth, whether an arm went by it or not.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

from bench.efficacy.measures import Detection, detection
from burnish.coordinator.policy.signals import Features, Signal, value_of

_FEATURES = frozenset(field.name for field in fields(Features))


def signal_values(rows: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """By signal, in words, the values of the rows that have one, the higher the better to keep; `rows`: what their
    decisions have."""
    found: dict[str, dict[str, float]] = {}
    for name, signals in rows.items():
        features = Features(**{key: value for key, value in signals.items() if key in _FEATURES})
        for signal in Signal:
            value = value_of(signal, features)
            if value is not None:
                found.setdefault(signal.value.replace("_", " "), {})[name] = value
    return found


def measure(values: Mapping[str, float], flaws: Mapping[str, str]) -> Detection:
    """One signal, by which as many rows would be dropped as are wrong, so that precision and recall are one."""
    worst = sorted(values, key=lambda name: (values[name], name))
    return detection(values, worst[: len(flaws)], flaws)


def measures(
    rows: Iterable[Mapping[str, Mapping[str, float | None]]], flaws: Mapping[str, str]
) -> dict[str, Detection]:
    """Of all runs of a cell; of a signal that several have the first counts; none where nothing is wrong."""
    found: dict[str, dict[str, float]] = {}
    for one in rows:
        found = {**signal_values(one), **found}
    return {name: measure(found[name], flaws) for name in sorted(found)} if flaws else {}
