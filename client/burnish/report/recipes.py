"""What a report has of each recipe: a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from burnish.coordinator.history import RunHistory
from burnish.report import bds, bmo, clear, mads, middo
from burnish.report import filter as filtering
from burnish.report.common import Decided
from burnish.report.data import Round
from burnish.report.map import Legend


@dataclass(frozen=True, slots=True)
class RecipePage:
    """How one recipe is reported. `round`: what the page says of a round. `notes`: what a reader should know before
    believing the numbers, of the run and its rounds. `template`: what turns them into HTML. `legend`: what its maps
    show; None where it draws none."""

    round: Callable[[Decided], Round]
    notes: Callable[[RunHistory, Any], list[str]]
    template: str
    legend: Legend | None = None


_FILTER = RecipePage(filtering.filter_round, filtering.filter_notes, "filter.html.jinja", filtering.LEGEND)
PAGES: Mapping[str, RecipePage] = {
    "middo": RecipePage(middo.middo_round, middo.middo_notes, "middo.html.jinja", middo.LEGEND),
    "clear": RecipePage(clear.clear_round, clear.clear_notes, "clear.html.jinja", clear.LEGEND),
    "mads": RecipePage(mads.mads_round, mads.mads_notes, "mads.html.jinja", mads.LEGEND),
    "bds": RecipePage(bds.bds_round, bds.bds_notes, "bds.html.jinja"),
    "bmo": RecipePage(bmo.bmo_round, bmo.bmo_notes, "bmo.html.jinja"),
    "filter": _FILTER,
    "auto": _FILTER,
}
