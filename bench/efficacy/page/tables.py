"""Everything that was measured as tables, alike in the page and in the documentation. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from bench.efficacy.gap import Interval
from bench.efficacy.page.data import Arm, Efficacy, Panel
from bench.efficacy.page.verdicts import capital, difference, mean, percent, share

Cell = Callable[[Arm], str]


def _rows(arm: Arm) -> str:
    return f"{arm.rows:,.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _share(arm: Arm, gap: Interval | None) -> str:
    """The ends of the gap are 0% and 100% by definition."""
    return percent(gap.mean) if gap and arm.kind in ("nothing", "oracle") else share(gap)


_ALWAYS: Mapping[str, Cell] = {
    "Rows": _rows,
    "Held-out loss": lambda arm: mean(arm.loss),
    "Against all rows": lambda arm: "–" if arm.kind == "nothing" else difference(arm.above),
    "Against random rows": lambda arm: difference(arm.over_chance),
    "Gap recovered": lambda arm: _share(arm, arm.gap),
}
_SIGNAL: Mapping[str, Cell] = {
    "AUROC": lambda arm: _number(arm.signal.auroc if arm.signal else None),
    "Precision": lambda arm: _number(arm.signal.precision if arm.signal else None),
    "Recall": lambda arm: _number(arm.signal.recall if arm.signal else None),
}
_COST: Mapping[str, Cell] = {
    "Seconds": lambda arm: f"{arm.seconds:,.0f}",
    "Seconds a point": lambda arm: "–" if arm.seconds_per_point is None else f"{arm.seconds_per_point:.1f}",
    "Seeds": lambda arm: str(len(arm.loss.values)),
}


def columns_of(panel: Panel) -> dict[str, Cell]:
    """By heading, what stands under it; columns that nothing was measured for are left out."""
    arms = panel.arms.values()
    columns = dict(_ALWAYS) if panel.has_gaps else {k: v for k, v in _ALWAYS.items() if k != "Gap recovered"}
    if panel.leading is not None:
        columns[f"Against {panel.leading.name} (seeds)"] = lambda arm: _beside(panel, arm)
    if any(arm.score for arm in arms):
        columns[capital(panel.score_name)] = lambda arm: mean(arm.score)
        columns[f"{capital(panel.score_name)} against all rows"] = lambda arm: (
            "–" if arm.kind == "nothing" else difference(arm.score_above)
        )
    if any(arm.signal for arm in arms):
        columns |= _SIGNAL
    pointless = () if any(arm.seconds_per_point is not None for arm in arms) else ("Seconds a point",)
    return {**columns, **{name: cell for name, cell in _COST.items() if name not in pointless}}


def _beside(panel: Panel, arm: Arm) -> str:
    """Against the best recipe on the seeds that both have, and how many these are: means over other seeds cannot be
    compared."""
    leading = panel.leading
    apart = None if leading is None or leading is arm else panel.apart(arm.name, leading.name)
    return "–" if apart is None else f"{difference(apart)} ({len(apart.values)})"


def measures_of(panel: Panel) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each signal by itself: those of most seeds first, of these the best; no line where none
    was measured."""
    kinds = list(dict.fromkeys(kind for one in panel.measures.values() for kind in one.by_kind))
    ordered = sorted(panel.measures.items(), key=lambda item: (-item[1].seeds, -(item[1].auroc or 0.0)))
    lines = []
    for name, one in ordered:
        of_kinds = [_number(one.by_kind.get(kind)) for kind in kinds]
        lines.append([name, _number(one.auroc), _number(one.recall), *of_kinds, str(one.seeds)])
    return ["Signal by itself", "AUROC", "Precision and recall", *(f"AUROC: {kind}" for kind in kinds), "Seeds"], lines


def cells_of(panel: Panel) -> list[tuple[Arm, list[str]]]:
    """Each arm with its figures."""
    columns = columns_of(panel).values()
    return [(arm, [cell(arm) for cell in columns]) for arm in panel.arms.values()]


def about(found: Efficacy) -> list[tuple[str, str]]:
    """What was measured on what, and how much of it; what is not told is left out."""
    machine, options = found.machine, found.options
    length = [(options.get("steps"), "steps"), (options.get("epochs"), "passes over the rows")]
    told = [
        ("Machine", ", ".join(str(machine[key]) for key in ("gpu", "cpu") if machine.get(key))),
        ("Cores", machine.get("cores")),
        ("Date", _dates(str(machine.get("when", "")))),
        ("Commit", machine.get("commit")),
        ("Model", str(options.get("model", "")).rstrip("/").rsplit("/", 1)[-1]),
        ("Scored by", " ".join(str(options[key]) for key in ("engine", "dtype") if options.get(key))),
        ("Trained in", options.get("train_dtype")),
        ("Rows to train on", _span([panel.rows for panel in found.panels])),
        ("Clean rows to learn from", options.get("validation_rows")),
        ("Held-out rows", options.get("held_out_rows")),
        ("Of these, answered for scores", options.get("score_rows")),
        ("Seeds of a task and a share", _span([len(panel.seeds) for panel in found.panels])),
        (
            "The base model trained first, on clean rows, for",
            f"{options['warm_steps']} steps at {options['warm_learning_rate']}" if options.get("warm_steps") else "",
        ),
        ("Each model trains for", next((f"{number} {unit}" for number, unit in length if number), "")),
        ("Rows of a step", options.get("batch_size")),
        ("Learning rate", options.get("learning_rate")),
    ]
    return [(name, str(value)) for name, value in told if value]


def _dates(when: str) -> str:
    """The day, or the first and the last, of times that are listed."""
    days = sorted(set(re.findall(r"\d{4}-\d{2}-\d{2}", when)))
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""


def _span(numbers: Sequence[int]) -> str:
    """One number, or from the least to the most."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
