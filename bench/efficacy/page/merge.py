"""Several results files as one: a grid that takes days is measured a few tasks at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def merged(documents: Sequence[Record]) -> Record:
    """One document with the cells of all. What they were measured with is told once where it is the same, else one
    after the other. Raises ValueError where two have the same task at the same noise: intervals were drawn over the
    seeds of one file."""
    if len(documents) == 1:
        return documents[0]
    gap: dict[str, dict[str, Any]] = {}
    for document in documents:
        for task, by_noise in (document.get("gap") or {}).items():
            if both := gap.get(task, {}).keys() & by_noise.keys():
                raise ValueError(
                    f"two files have {task} at {', '.join(sorted(both))}; expected all seeds of a task and a share of"
                    " noise in one file"
                )
            gap.setdefault(task, {}).update(by_noise)
    return {
        "cells": [cell for document in documents for cell in document.get("cells", ())],
        "gap": gap,
        "machine": _together([document.get("machine") or {} for document in documents]),
        "options": _together([document.get("options") or {} for document in documents]),
        "command": "; ".join(_distinct(document["command"] for document in documents if document.get("command"))),
        "problems": _distinct(one for document in documents for one in document.get("problems") or ()),
        "left_out": _distinct(one for document in documents for one in document.get("left_out") or ()),
    }


def _together(records: Sequence[Record]) -> Record:
    found = {}
    for name in _distinct(name for record in records for name in record):
        values = _distinct(record[name] for record in records if record.get(name) is not None)
        found[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return found


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
