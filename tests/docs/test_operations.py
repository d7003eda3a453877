"""Every alert is explained to whoever it wakes, and every page that the manual names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
RULES = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text(encoding="utf-8"))


def test_every_alert_has_its_row_and_no_row_is_left_over() -> None:
    alerts = [rule["alert"] for group in RULES["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(Burnish\w+)` \|", PAGE, re.MULTILINE) == alerts


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
