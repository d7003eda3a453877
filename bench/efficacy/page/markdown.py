"""The figures as Markdown tables, between two marks of a document whose other text stays as it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.efficacy.page.charts import headline
from bench.efficacy.page.data import Efficacy, Panel
from bench.efficacy.page.tables import about, cells_of, columns_of, measures_of
from bench.efficacy.page.verdicts import (
    RULE,
    before,
    conclusion,
    difference,
    label,
    mean,
    share,
    shortcomings,
    told_answers,
)
from bench.efficacy.page.verdicts import answer as answer_of

BEGIN = "<!-- figures: `python -m bench.efficacy.page --markdown` writes what follows -->"
END = "<!-- end of figures -->"


def put(document: str, found: Efficacy) -> str:
    """The document with what was found between its marks. Raises ValueError where it lacks them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for figures; expected the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{figures(found)}\n\n{END}{after}"


def figures(found: Efficacy) -> str:
    """All of it."""
    parts = [
        f"**{conclusion(found)}**",
        _answers(found),
        RULE,
        "Not shown, or shown not to work:" if shortcomings(found) else "",
        "\n".join(f"- {sentence}" for sentence in shortcomings(found)),
    ]
    for panel in found.panels:
        parts += [f"### {headline(panel)}", before(panel), _everything(panel), _measures(panel)]
    parts += ["### How it was measured", _table(["", ""], about(found)), "```\n" + "\n".join(found.commands) + "\n```"]
    return "\n\n".join(part for part in parts if part)


def _answers(found: Efficacy) -> str:
    rows = []
    for one in [*map(answer_of, found.main), *told_answers(found)]:
        if one.best is not None:
            nothing, chance = (
                f"{one.nothing}: {difference(one.best.above)}",
                f"{one.chance}: {difference(one.best.over_chance)}",
            )
            score = f"{mean(one.best.score)} {one.panel.score_name}" if one.best.score else "–"
            rows.append([one.panel.title, label(one.best), share(one.best.gap), nothing, chance, score])
    headings = [
        f"At {found.noise:.0%} wrong",
        "Best recipe",
        "Gap recovered",
        "Against all rows",
        "Against as many random rows",
    ]
    return _table([*headings, "Score"], rows)


def _everything(panel: Panel) -> str:
    headings = ["Arm", *columns_of(panel)]
    return _table(headings, [[label(arm), *cells] for arm, cells in cells_of(panel)], numbers=True)


def _measures(panel: Panel) -> str:
    headings, lines = measures_of(panel)
    return _table(headings, lines, numbers=True) if lines else ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    rule = ["---", *(["--:"] * (len(headings) - 1) if numbers else ["---"] * (len(headings) - 1))]
    lines = [headings, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
