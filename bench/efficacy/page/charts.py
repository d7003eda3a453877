"""Which pictures a page has of what was found; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from bench.efficacy.arms import NOISY, ORACLE, control_of
from bench.efficacy.measures import Spread
from bench.efficacy.page.costs import Cost, cost_chart
from bench.efficacy.page.data import Arm, Efficacy, Panel, Signal
from bench.efficacy.page.dots import Dot, dot_chart
from bench.efficacy.page.heat import Column, heat_map
from bench.efficacy.page.lines import Line, line_chart
from bench.efficacy.page.marks import Mark
from bench.efficacy.page.verdicts import capital, percent, share, signed

_NOTHING, _ORACLE = "nothing", "oracle"  # classes of the style sheet
_ALONE = "by itself: "  # before the name of a signal


def headline(panel: Panel) -> str:
    """Over a picture: the task and the share of wrong rows."""
    return f"{capital(panel.title)}, {panel.noise:.0%} wrong"


def gap_chart(panel: Panel) -> Markup | None:
    """The gap recovered by arm; None where there is none."""
    dots = [
        Dot(arm.name, arm.kind, arm.gap.mean, arm.gap.low, arm.gap.high, _range(arm.gaps_of_chance), share(arm.gap))
        for arm in panel.shown
        if arm.gap is not None
    ]
    marks = [Mark("all rows", 0.0, _NOTHING), Mark("right rows only", 1.0, _ORACLE)]
    return dot_chart(headline(panel), "share of the gap recovered", dots, marks, percent) if dots else None


def gap_or_loss_chart(panel: Panel) -> Markup | None:
    """Differences in loss stand in for the gap where there is none."""
    return gap_chart(panel) or loss_chart(panel)


def loss_chart(panel: Panel) -> Markup | None:
    """Held-out loss by arm, less that of all rows."""
    dots = [_spread_dot(arm, arm.above, _range(arm.chance), signed(arm.above.mean)) for arm in panel.shown if arm.above]
    marks = [Mark("all rows", 0.0, _NOTHING)]
    if panel.lost is not None:
        marks.append(Mark("right rows only", -panel.lost.mean, _ORACLE))
    axis = "held-out loss less that of all rows, nats per token"
    return dot_chart(headline(panel), axis, dots, marks, lambda value: signed(value, 2)) if dots else None


def score_chart(panel: Panel) -> Markup | None:
    """The task's score by arm."""
    dots = []
    for arm in panel.shown:
        control = panel.arms.get(control_of(arm.name))
        chance = control.score.values if control and control.score else ()
        if arm.score is not None:
            dots.append(_spread_dot(arm, arm.score, _range(chance), f"{arm.score.mean:.3f}"))
    compared = ((NOISY, "all rows", _NOTHING), (ORACLE, "right rows only", _ORACLE))
    marks = [
        Mark(words, score.mean, style)
        for name, words, style in compared
        if name in panel.arms and (score := panel.arms[name].score) is not None
    ]
    axis = f"{panel.score_name} of held-out rows"
    return dot_chart(headline(panel), axis, dots, marks, lambda value: f"{value:.2f}") if dots else None


def _spread_dot(arm: Arm, one: Spread, shade: tuple[float, float] | None, told: str) -> Dot:
    """With a whisker of one standard error."""
    low, high = (None, None) if one.error is None else (one.mean - one.error, one.mean + one.error)
    told += "" if one.error is None else f" ± {one.error:.3f}"
    return Dot(arm.name, arm.kind, one.mean, low, high, shade, told)


def _range(values: Sequence[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def signal_map(found: Efficacy) -> Markup | None:
    """AUROC of every arm's value, and of every signal by itself, against every kind of flaw, at the noise of the first
    screen."""
    told = [(name, signal) for panel in found.main for name, signal in _signals(panel).items()]
    there = dict.fromkeys(name for name, signal in told if signal.auroc is not None)
    signals = sorted(there, key=lambda name: name.startswith(_ALONE))  # arms first
    columns = [column for panel in found.main for column in _columns(panel, signals)]
    return heat_map(f"AUROC at {found.noise:.0%} wrong rows", signals, columns) if columns else None


def _signals(panel: Panel) -> dict[str, Signal]:
    of_arms = {name: arm.signal for name, arm in panel.arms.items() if arm.signal is not None}
    return of_arms | {f"{_ALONE}{name}": signal for name, signal in panel.measures.items()}


def _columns(panel: Panel, signals: Sequence[str]) -> list[Column]:
    known = _signals(panel)
    kinds = dict.fromkeys(kind for signal in known.values() for kind in signal.by_kind)
    of_all = [known[name].auroc if name in known else None for name in signals]
    made = [
        Column(panel.title, kind, [known[name].by_kind.get(kind) if name in known else None for name in signals])
        for kind in kinds
    ]
    return [Column(panel.title, "all flaws", of_all), *made] if known else []


def noise_charts(found: Efficacy) -> list[Markup]:
    """Loss over the share of noise, one picture for each task with more than one."""
    charts = []
    for task in dict.fromkeys(panel.task for panel in found.panels):
        panels = found.of_task(task)
        told = next((panel for panel in panels if panel.noise == found.noise), panels[-1])
        best = told.leading
        if len(panels) > 1 and best is not None:
            control = control_of(best.name)
            thick = {NOISY: _NOTHING, ORACLE: _ORACLE, control: "chance", best.name: best.kind}
            background = [Line("", "mist", _points(panels, arm.name)) for arm in told.shown if arm.name not in thick]
            # The control's own name is too long to stand at the end of a line.
            words = {control: "random rows"}
            named = [Line(words.get(name, name), style, _points(panels, name)) for name, style in thick.items()]
            lines = [line for line in (*background, *named) if line.points]
            charts.append(line_chart(capital(told.title), "share of wrong rows", lines))
    return charts


def _points(panels: Sequence[Panel], name: str) -> list[tuple[float, float, float | None]]:
    arms = [(panel.noise, panel.arms[name].loss) for panel in panels if name in panel.arms]
    return [(noise, loss.mean, loss.error) for noise, loss in arms]


def cost_charts(found: Efficacy) -> list[Markup]:
    """Seconds against the gap recovered; against what the loss falls by where there is no gap."""
    charts = []
    for panel in found.main:
        won = {arm.name: _won(arm, panel.has_gaps) for arm in panel.shown if arm.seconds > 0}
        costs = [
            Cost(arm.name, arm.kind, arm.seconds, value)
            for arm in panel.shown
            if (value := won.get(arm.name)) is not None
        ]
        marks = [Mark("all rows", 0.0, _NOTHING)]
        tick: Callable[[float], str]
        what, tick = "nats below all rows", signed
        if panel.has_gaps:
            marks.append(Mark("right rows only", 1.0, _ORACLE))
            what, tick = "gap recovered", percent
        if costs:
            charts.append(cost_chart(f"{headline(panel)}: {what}", "seconds from data to model", costs, marks, tick))
    return charts


def _won(arm: Arm, of_the_gap: bool) -> float | None:
    if of_the_gap:
        return arm.gap.mean if arm.gap else None
    return -arm.above.mean if arm.above else None
