"""Turns what was found into one self-contained HTML file, with the report's style sheet: no script, no network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.efficacy.arms import NOISY, ORACLE
from bench.efficacy.page import charts, verdicts
from bench.efficacy.page.data import Efficacy
from bench.efficacy.page.marks import STYLES, key
from bench.efficacy.page.strip import strip
from bench.efficacy.page.tables import about, cells_of, columns_of, measures_of
from burnish.report.render import style

_TEMPLATES = Path(__file__).parent / "templates"


def render(found: Efficacy) -> str:
    """The page as an HTML document."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(capital=verdicts.capital, percent=verdicts.percent, share=verdicts.share)
    environment.filters.update(difference=verdicts.difference, difference_of=verdicts.signed)
    noises = sorted({panel.noise for panel in found.panels})
    return environment.get_template("page.html.jinja").render(
        report_style=style(),
        found=found,
        noises=[found.noise, *(noise for noise in noises if noise != found.noise)],
        panels={noise: [panel for panel in found.panels if panel.noise == noise] for noise in noises},
        answers=[verdicts.answer(panel) for panel in found.main],
        unharmed={panel.task: panel for panel in found.panels if panel.noise == 0},
        said=verdicts.conclusion(found),
        shortcomings=verdicts.shortcomings(found),
        rule=verdicts.RULE,
        verdict=verdicts.verdict,
        told={one.panel.task: one.best for one in verdicts.told_answers(found)},
        label=verdicts.label,
        keys=[key(kind) for kind in STYLES],
        charts=charts,
        noise_charts=charts.noise_charts(found),
        cost_charts=charts.cost_charts(found),
        signal_map=charts.signal_map(found),
        strip=strip,
        about=about(found),
        before=verdicts.before,
        columns_of=columns_of,
        cells_of=cells_of,
        measures_of=measures_of,
        special={"nothing": NOISY, "oracle": ORACLE},
    )
