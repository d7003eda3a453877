"""Turns ReportData into one self-contained HTML file: no script from elsewhere, no network, no font."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from burnish.coordinator.arms import ArmKind
from burnish.coordinator.atomic import writing_whole
from burnish.report.bars import NARROW, cost_bar, flow_bar, loss_bars
from burnish.report.curves import coverage_chart
from burnish.report.data import BdsRound, ClearRound, FilterRound, MadsRound, MiddoRound, ReportData, Round
from burnish.report.diagram import reliability_diagram
from burnish.report.histogram import Line, Series, histogram
from burnish.report.learning import learning_chart
from burnish.report.map import Key, Legend, set_map
from burnish.report.recipes import PAGES
from burnish.report.short_data import Arm
from burnish.report.truth_data import Share
from burnish.report.verdict import draws_are_all_rows

MAX_CHANGES_SHOWN = 60  # per round; the rest is counted and stays in the ledger
LABELS = {
    "hard": "too hard",
    "sparse": "sparse",
    "low_quality": "low quality",
    "loss_pre": "loss before training",
    "loss_post": "loss after training",
    "mean_cosine": "similarity to nearest neighbours",
    "quality": "self-judged quality",
    "any": "any axis",
    "low_confidence": "low confidence",
    "likelihood": "likelihood of the response",
    "logit": "learnt weight",
    "low_value": "low value",
    "weakest": "least likely token",
    "ifd": "instruction-following difficulty",
    "pmi": "pointwise mutual information",
    "cross_loss": "loss under models that did not see the row",
    "cross_gain": "gain by models that did not see the row",
    "cross_weakest": "least likely token under models that did not see the row",
    "calibrated": "likeness to the trusted rows",
}
UNITS = {
    "loss_pre": "nats per response token, base weights",
    "loss_post": "nats per response token, this round's weights",
    "mean_cosine": "mean cosine to the k nearest prompts",
    "quality": "mean of six ratings, 0 to 10",
    "confidence": "0 to 1, base weights",
    "consistency": "agreement with the model's own answers, 0 to 1",
    "reflection": "the model's own verdict, 0 to 1",
    "likelihood": "exp(mean log-probability of the response), base weights",
    "rating": "the model's direct rating, 0 to 10",
    "length": "response tokens",
    "loss": "log-probability, nats per response token, base weights",
    "total_loss": "log-probability of the response, nats, base weights",
    "weakest": "log-probability of the least likely response token, nats, base weights",
    "ifd": "loss with the prompt over loss without; where it is 1 or more, the negative",
    "pmi": "log-probability with the prompt less that without, nats per response token",
    "cross_loss": "log-probability, nats per response token, weights that did not see the row",
    "cross_gain": "nats per response token that other rows teach about it",
    "cross_weakest": "log-probability, a model trained on other rows",
    "calibrated": "log odds of a trusted row against one of the data, by what the base model makes of both",
}


def style() -> str:
    """The report's style sheet, as an HTML element, for other pages that are to look like it."""
    frame = _environment().get_template("frame.html.jinja")
    return "".join(frame.blocks["style"](frame.new_context()))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("burnish.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(label=_label, duration=_duration, number=_number, pretty=_pretty)
    environment.filters.update(interval=_interval, bound=_bound, flags=_flags)
    environment.globals.update(
        flow_bar=flow_bar,
        loss_bars=loss_bars,
        narrow=NARROW,
        cost_bar=cost_bar,
        controls=_controls,
        draws_are_all_rows=draws_are_all_rows,
    )
    environment.filters.update(percent=_percent, attr_or_zero=lambda counts, name: counts.get(name, 0))
    return environment


def render(data: ReportData) -> str:
    """The report as an HTML document."""
    page = PAGES[data.recipe]
    template = _environment().get_template(page.template)
    return template.render(
        data=data,
        diagrams=_diagrams(data),
        curves=_curves(data),
        maps=_maps(data, page.legend),
        about_maps=page.legend.about if page.legend else "",
        learning=[learning_chart(model) for model in data.models if len(model.losses) > 1],
        weights=_weights(data),
        share=_share,
        charts={round_.number: _charts(data, round_) for round_ in data.rounds},
        shown=MAX_CHANGES_SHOWN,
        compare=_compare,
        longest=_longest(data),
    )


def _longest(data: ReportData) -> float:
    """Seconds of the step that took longest, above 0."""
    timings = [*data.last_timings, *(one for round_ in data.rounds for one in round_.timings)]
    return max((one.seconds for one in timings), default=1.0) or 1.0


def write_report(data: ReportData, path: Path) -> Path:
    """Writes the report whole or not at all; returns `path`. Raises DiskFull."""
    page = render(data).encode("utf-8")
    with writing_whole(path, durable=False, alone=False) as stream:
        stream.write(page)
    return path


def _charts(data: ReportData, round_: Round) -> list[Markup]:
    """One histogram per signal: this round's distribution, over the first round's where there was one before."""
    first = data.rounds[0]
    charts = []
    settings = data.config.get("settings")
    among = isinstance(settings, Mapping) and settings.get("among")
    relative = ", above the median of its neighbours" if among else ""
    for threshold in round_.thresholds:
        values = round_.signals.get(threshold.signal, ())
        series = [Series(f"round {round_.number}", values, "after")]
        if round_ is not first:
            series.insert(0, Series("round 1", first.signals.get(threshold.signal, ()), "before"))
        lines = [] if threshold.tau is None else [Line("threshold", threshold.tau, "threshold")]
        charts.append(histogram(_label(threshold.signal) + relative, UNITS.get(threshold.signal, ""), series, lines))
    return charts


def _diagrams(data: ReportData) -> dict[int, Markup]:
    """The reliability of each round's confidence, where it can be told."""
    found = {r.number: r.calibration for r in data.rounds if isinstance(r, ClearRound)}
    return {number: reliability_diagram(c.bins) for number, c in found.items() if c is not None and c.bins}


def _curves(data: ReportData) -> dict[int, list[Markup]]:
    """What a selection covers, where that can be told."""
    return {
        r.number: [
            coverage_chart("Objective", "value", r.curve, r.random_curves),
            coverage_chart("Different features", "num_features", r.curve, r.random_curves),
        ]
        for r in data.rounds
        if isinstance(r, MadsRound) and r.curve is not None
    }


def _maps(data: ReportData, legend: Legend | None) -> dict[int, tuple[Markup, list[Key]]]:
    """The picture of each round's set and the keys to what it has, where there is one."""
    if legend is None:
        return {}
    keys = legend.keys
    found: dict[int, tuple[Markup, list[Key]]] = {}
    for one in data.rounds:
        picture = one.map if isinstance(one, MadsRound | MiddoRound | ClearRound | FilterRound) else None
        if picture is not None and picture.points:
            there = [key for key in keys if key is keys[0] or picture.points.get(key.group)]
            found[one.number] = (set_map(picture, there), there)
    return found


def _weights(data: ReportData) -> dict[int, Markup]:
    """How learnt weights are spread, after the first pass and in the end."""
    found = {}
    for one in data.rounds:
        if isinstance(one, BdsRound) and one.snapshots:
            first, last = one.snapshots[0], one.snapshots[-1]
            series = [Series(f"after {last.step} steps", last.weights, "after")]
            if first is not last:
                series.insert(0, Series(f"after {first.step} steps", first.weights, "before"))
            found[one.number] = histogram("Weights", "what a row's loss is multiplied by", series)
    return found


def _share(part: int, whole: int) -> Markup:
    """A count's share in brackets; nothing of nothing."""
    return Markup(' <span class="soft">({:.0%})</span>').format(part / whole) if whole else Markup("")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}".replace("-", "\N{MINUS SIGN}")


def _interval(share: Share) -> str:
    if share.value is None:
        return "–"
    return f"{share.value:.0%} ({_percent(share.low)} to {_percent(share.high)})"


def _flags(text: str) -> Markup:
    """A text whose options do not break at the end of a line."""
    return Markup(re.sub(r"(--[a-z-]+)", r'<code class="flag">\1</code>', str(escape(text))))  # noqa: S704 - it is escaped


def _bound(value: float) -> str:
    """An end of an interval that may have none."""
    return _percent(value) if math.isfinite(value) else "no bound"


def _controls(arms: Sequence[Arm]) -> str:
    """What shows what chance does, in words; after its name, which is bold."""
    chance = next(arm for arm in arms if arm.kind is ArmKind.RANDOM)
    times = f"{len(chance.losses)} times" if len(chance.losses) > 1 else "once"
    if draws_are_all_rows(arms):
        return (
            "show what chance does: as many rows came out as went in, or more, so none could be drawn from them, and"
            f" all were trained on {times} in another order"
        )
    return f"show what chance does: as many rows as came out, drawn blindly from those that went in, {times}"


_LONG = 600  # words


def _compare(old_text: str, new_text: str) -> tuple[Markup, Markup]:
    """Both texts with the words that went and came marked."""
    before, after = _words(old_text), _words(new_text)
    left, right = [], []
    # In long texts what stands everywhere is not looked for: with it, two thousand words took half a minute.
    is_long = max(len(before), len(after)) > _LONG
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(a=before, b=after, autojunk=is_long).get_opcodes():
        old, new = escape("".join(before[i1:i2])), escape("".join(after[j1:j2]))
        left.append(old if tag == "equal" else Markup("<del>{}</del>").format(old) if old else old)
        right.append(new if tag == "equal" else Markup("<ins>{}</ins>").format(new) if new else new)
    return Markup("").join(left), Markup("").join(right)


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def _label(word: str) -> str:
    return LABELS.get(word, word.replace("_", " "))


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
