"""Files that are made of others: a chart can read none outside its own folder."""

from __future__ import annotations

import json
from pathlib import Path

from tools.chart.rendering import CHART, PROFILES, ROOT, golden
from tools.chart.schema import schema

GOLDEN = ROOT / "tests" / "deploy" / "golden"
COPIES = {
    CHART / "files" / "alerts.yaml": ROOT / "deploy" / "prometheus" / "alerts.yaml",
    CHART / "files" / "dashboard.json": ROOT / "deploy" / "grafana" / "burnish.json",
}


def written(*, golden_too: bool) -> dict[Path, str]:
    """What each of them must be."""
    made = {to: source.read_text(encoding="utf-8") for to, source in COPIES.items()}
    made[CHART / "values.schema.json"] = json.dumps(schema(), indent=1) + "\n"
    if golden_too:
        made |= {GOLDEN / f"{name}.yaml": golden(name) for name in PROFILES}
    return made
