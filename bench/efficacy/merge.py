"""Several results files as one: a grid that takes days is measured a few arms or tasks at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.efficacy.arms import Kind, control_of
from bench.efficacy.record import Record
from bench.efficacy.won import gaps


def merged(documents: Sequence[Record]) -> Record:
    """One document with the arms of all; of an arm that several have the first counts. What they were measured with is
    told once where it is the same, else one after the other. Raises ValueError where two have the same task, noise and
    seed, made of other data, model or hyperparameters: their arms cannot be compared; or one arm with other
    settings, or seeds of one task and share of noise are of different experiments."""
    cells: dict[tuple[str, float, int], Record] = {}
    known: dict[tuple[str, float], Record] = {}
    for cell in (cell for document in documents for cell in document.get("cells", ())):
        key = (cell["task"], float(cell["noise"]), int(cell["seed"]))
        cells[key] = _both(cells[key], cell) if key in cells else cell
        others = known.setdefault(key[:2], cell)
        if problem := unlike(cell, others):
            raise ValueError(problem)
        known[key[:2]] = {**others, "arms": {**cell["arms"], **others["arms"]}}
    complete = [_with_controls(cell) for cell in cells.values()]
    left_out = _distinct(one for document in documents for one in document.get("left_out") or ())
    return {
        **documents[-1],
        "cells": complete,
        "gap": gaps(complete),
        "machine": _together([_noted(document.get("machine") or {}) for document in documents]),
        "options": _together([document.get("options") or {} for document in documents]),
        "command": "\n".join(_distinct(document["command"] for document in documents if document.get("command"))),
        "problems": _distinct(one for document in documents for one in document.get("problems") or ()),
        "left_out": [one for one in left_out if not any(one in cell["arms"] for cell in complete)],
    }


def differs(cell: Record, settings: Mapping[str, Any], arm: str) -> str:
    """What is wrong with taking over from a cell an arm that is to have these settings; empty for nothing."""
    other = _unequal(cell["arms"][arm].get("settings", {}), settings)
    if not other:
        return ""
    return f"{arm} of {_about(cell)} has other settings in one than in the other: {', '.join(other)}; expected the same"


def unlike(one: Record, other: Record) -> str:
    """What is wrong with taking two cells of a task and a share of noise for draws of one experiment; empty for
    nothing."""
    if one.get("setting") != other.get("setting"):
        return (
            f"{_about(one)} was measured with other sizes, flaws, hyperparameters or another model than the other seeds"
            " of the same; expected the same of all"
        )
    for name in sorted(one["arms"].keys() & other["arms"].keys()):
        if problem := differs(other, one["arms"][name].get("settings", {}), name):
            return f"{problem} of all seeds"
    return ""


def _unequal(some: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """The settings that are not the same. One that only one side has came with another version; there it was unset.
    None where a side does not tell its settings."""
    if not some or not others:
        return []
    names = [name for name in {**some, **others} if _unset(some.get(name)) != _unset(others.get(name))]
    return [f"{name} {some.get(name)!r} and {others.get(name)!r}" for name in names]


def _unset(value: Any) -> Any:
    return value or None


def _about(cell: Record) -> str:
    return f"{cell['task']} at noise {cell['noise']:g}, seed {cell['seed']}"


def _both(first: Record, second: Record) -> Record:
    if first["made_of"] != second["made_of"]:
        raise ValueError(
            f"two files have {_about(first)}, of other data or with other hyperparameters; expected the same, or other"
            " tasks, shares of noise or seeds"
        )
    for name in sorted(first["arms"].keys() & second["arms"].keys()):
        if problem := differs(first, second["arms"][name].get("settings", {}), name):
            raise ValueError(f"two files differ: {problem}")
    return {
        **first,
        "arms": {**second["arms"], **first["arms"]},
        "signals": {**second["signals"], **first["signals"]},
        "measures": {**second.get("measures", {}), **first.get("measures", {})},
        "base_score": next((one["base_score"] for one in (first, second) if one.get("base_score") is not None), None),
    }


def _with_controls(cell: Record) -> Record:
    """Arms of as many rows share their control, in whichever file it is. Of all rows, which older files have, it is
    none."""
    controls = {name: one for name, one in cell["arms"].items() if one["kind"] == Kind.CONTROL}
    by_rows = {one["rows"]: one for one in controls.values() if one["rows"] < cell["rows"]}
    alone = (Kind.NOTHING, Kind.ORACLE, Kind.CONTROL)
    arms = {name: one for name, one in cell["arms"].items() if name not in controls or one["rows"] in by_rows}
    for name, one in cell["arms"].items():
        if one["kind"] not in alone and one["rows"] in by_rows:
            arms.setdefault(control_of(name), by_rows[one["rows"]])
    return {**cell, "arms": arms}


def _together(records: Sequence[Record]) -> Record:
    found = {}
    for name in _distinct(name for record in records for name in record):
        values = _distinct(record[name] for record in records if record.get(name) is not None)
        found[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return found


def _noted(machine: Record) -> Record:
    """With the commit, where none was noted too: others' would be taken for that of all."""
    return {**machine, "commit": machine.get("commit") or "not noted"}


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
