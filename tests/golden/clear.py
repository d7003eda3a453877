"""What CLEAR decides on the first rows of the bundled data with the transformers engine in float32: the golden
decisions.

    python -m tests.golden.clear        makes tests/golden/clear.json anew

Candidates come from the base model, so that nothing hangs on training; a fake service stands in for the last one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import burnish
from burnish import Client, Endpoints
from burnish.coordinator.history import RunHistory
from burnish.coordinator.loop import run_recipe
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.local import EngineOptions, LocalServices
from burnish.testing import FakeServices
from tests.golden.cases import MODEL

GOLDEN = Path(__file__).parent / "clear.json"
ROWS = 8
BUNDLED = Path(burnish.__file__).parent / "data" / "demo.jsonl"


def decided(folder: Path) -> list[dict[str, Any]]:
    """One entry per row: its action, its signals, its verdicts, and its candidates as they were judged."""
    data = folder / "demo.jsonl"
    data.write_text("".join(BUNDLED.read_text(encoding="utf-8").splitlines(keepends=True)[:ROWS]), encoding="utf-8")
    settings = ClearSettings(
        data=str(data),
        model=str(MODEL.resolve()),
        tier="fast",
        proposer="base",
        propose={"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64},
        eta=0.5,
        swap=False,  # this model goes by place: in both orders nothing would win
        min_covered_mass=0.0,
    )
    options = EngineOptions(dtype="float32", max_model_len=768)
    with (
        LocalServices(
            ["scoring", "rewriting"],
            engine="transformers",
            model=MODEL.resolve(),
            state_dir=folder / "services",
            options=options,
        ) as services,
        FakeServices() as fakes,
    ):
        address = services.endpoints.scoring
        endpoints = Endpoints(scoring=address, rewriting=address, training=fakes.endpoints.training)
        with Client(endpoints) as client:
            run_recipe(settings, client, folder / "out")
    with RunHistory.open(folder / "out") as history:
        evidence = history.evidence(1, [row.sample_hash for row in history.rows(1)])
        candidates = history.candidates(1)
        return [
            {
                "row_id": d.row_id,
                "action": d.actions[0],
                "signals": dict(d.signals),
                "verdicts": evidence[d.sample_hash].verdicts,
                "candidates": [
                    [one.text, one.rejection, None if one.preference is None else one.preference.orders]
                    for one in candidates
                    if one.row_id == d.row_id
                ],
            }
            for d in history.decisions(1)
        ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        GOLDEN.write_text(json.dumps(decided(Path(made)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{GOLDEN}\n")
