"""A cell as JSON: what its arms have found, row by row where models are compared, so that arms which are measured later
can be compared with these. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bench.efficacy.reading import Found
from bench.efficacy.scores import SCORES

Record = Mapping[str, Any]
LOSS, SCORE = "loss", "score"
_DIGITS = 5  # of a row's nats


def record_of(found: Found) -> dict[str, Any]:
    """Of a cell that has at least one arm."""
    cell, score = found.cell, SCORES.get(found.cell.task)
    tokens = next(iter(found.arms.values())).losses.sizes
    return {
        "task": cell.task,
        "noise": cell.noise,
        "seed": cell.seed,
        "made_of": cell.made_of(),
        "setting": cell.setting,
        "rows": found.rows,
        "wrong": found.wrong,
        "base_loss": found.base_loss,
        "base_score": found.base_score,
        "held_out_tokens": [int(number) for number in tokens],
        "arms": {
            name: {
                "kind": one.kind.value,
                "loss": one.losses.mean,
                "score": None if one.scores is None else one.scores.mean,
                "settings": dict(one.settings),
                "rows": one.rows,
                "trained_seconds": one.trained_seconds,
                "seconds": one.seconds,
                "held_out_nats": [round(float(value), _DIGITS) for value in one.losses.values],
                "held_out_scores": None
                if one.scores is None
                else [round(float(value), _DIGITS) for value in one.scores.values],
            }
            for name, one in found.arms.items()
        },
        "score_name": score.name if score else None,
        "signals": {name: asdict(one.detection) for name, one in found.arms.items() if one.detection},
        "measures": {name: asdict(one) for name, one in found.measures.items()},
    }
