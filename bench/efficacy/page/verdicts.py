"""What the numbers say in words, by one rule that the page states. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import t as student

from bench.efficacy.arms import ARMS, ORACLE
from bench.efficacy.gap import SEEDS, Interval
from bench.efficacy.measures import Spread
from bench.efficacy.page.data import RECIPES, Arm, Efficacy, Panel
from bench.efficacy.tasks import TASKS

FOUND = 0.6  # AUROC from which on a signal is said to see a kind of flaw
RULE = (
    "Better or worse means that the 95% interval of the differences seed by seed (Student's t, at least"
    f" {SEEDS} seeds) does not hold 0. Anything else is “not shown”."
)


class Verdict(StrEnum):
    """Of a difference in loss, an arm's less its peer's."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "not shown"
    TOO_FEW = "too few seeds"
    MISSING = "not measured"


def verdict(difference: Spread | None) -> Verdict:
    """By the rule above."""
    if difference is None:
        return Verdict.MISSING
    if difference.error is None or len(difference.values) < SEEDS:
        return Verdict.TOO_FEW
    reach = float(student.ppf(0.975, len(difference.values) - 1)) * difference.error
    if abs(difference.mean) > reach:
        return Verdict.BETTER if difference.mean < 0 else Verdict.WORSE
    return Verdict.UNCLEAR


@dataclass(frozen=True)
class Answer:
    """What is said of one task's best recipe (`Panel.leading`), or of another of its arms, against all rows and against
    chance."""

    panel: Panel
    best: Arm | None
    nothing: Verdict
    chance: Verdict


def answer(panel: Panel) -> Answer:
    """Of the best recipe."""
    return _of(panel, panel.leading)


def told_answers(found: Efficacy) -> list[Answer]:
    """Of the best of those recipes that are told what share of the rows to keep, where the best of the others leads."""
    told = [(panel, panel.best(told_share=True)) for panel in found.main]
    return [_of(panel, arm) for panel, arm in told if arm is not None and arm is not panel.leading]


def _of(panel: Panel, arm: Arm | None) -> Answer:
    return Answer(panel, arm, verdict(arm.above if arm else None), verdict(arm.over_chance if arm else None))


def simpler(panel: Panel) -> Arm | None:
    """A simple rule that did better than every recipe, on the seeds that both have, no fewer; None where there is
    none."""
    best, simple = panel.best(), panel.best(("baseline",))
    if best is None or simple is None or len(simple.loss.values) < len(best.loss.values):
        return None
    apart = panel.apart(simple.name, best.name)
    return simple if apart is not None and apart.mean < 0 else None


def label(arm: Arm) -> str:
    """Its name, and whether it was told what share of the rows to keep."""
    return f"{arm.name} (told the share)" if arm.told_share else arm.name


def conclusion(found: Efficacy) -> str:
    """The whole in a few sentences, for who reads no further."""
    answers = [one for one in map(answer, found.main) if one.best is not None]
    if not answers:
        return "No recipe was measured yet."
    known = [one.best.told_share for one in answers if one.best is not None]
    which = ", told what share to keep," if all(known) else "" if any(known) else " that is told no share"
    said = (
        f"With {found.noise:.0%} of the rows wrong, the best recipe of each task{which} is {_shown(answers)}."
        f"{_won(answers)}"
    )
    if told := told_answers(found):
        said += f" The best that is told what share of the rows to keep is {_shown(told)}.{_won(told)}"
    return said


def _shown(answers: Sequence[Answer]) -> str:
    nothing = sum(one.nothing is Verdict.BETTER for one in answers)
    chance = sum(one.chance is Verdict.BETTER for one in answers)
    return (
        f"shown to be better than doing nothing on {nothing or 'none'} of {count(len(answers), 'task')}, and better"
        f" than as many random rows on {chance or 'none'}"
    )


def _won(answers: Sequence[Answer]) -> str:
    """How much of the gap, in sentences; empty where none has one."""
    intervals = [one.best.gap for one in answers if one.best is not None and one.best.gap is not None]
    gaps = [gap.mean for gap in intervals if gap.low is not None and gap.low > 0]
    said = ""
    if gaps:
        reach = percent(min(gaps)) if len(gaps) == 1 else f"between {percent(min(gaps))} and {percent(max(gaps))}"
        said += f" It wins back {reach} of what the wrong rows cost."
    if len(gaps) < len(intervals):
        where = " on some of them" if gaps else ""
        said += f" How much of what the wrong rows cost it wins back{where} cannot be told from so few seeds."
    return said


def shortcomings(found: Efficacy) -> list[str]:
    """What does not work, in sentences; what could not be told last."""
    main = found.main
    said = []
    for name in dict.fromkeys(arm.name for panel in main for arm in panel.shown if arm.kind in RECIPES):
        faults = [fault for fault in (_not_above_chance(main, name), *_harm(found, name)) if fault]
        if faults:
            said.append(f"{name}: {'; '.join(faults)}.")
    said += _unseen(main)
    for panel in main:
        simple = simpler(panel)
        if simple is not None:
            said.append(f"{capital(panel.title)}: the simple rule “{simple.name}” did better than every recipe.")
    for panel in main:
        if panel.lost is not None and not panel.has_gaps and panel.noise > 0:
            said.append(
                f"{capital(panel.title)}: wrong rows cost too little ({difference(panel.lost)} nats) for a share of it"
                f" to be told{_at_most(panel)}."
            )
    said += [told for panel in main if (told := _of_no_use(panel))]
    few = [panel.title for panel in main if len(panel.seeds) < SEEDS]
    if few:
        said.append(f"Fewer than {SEEDS} seeds show nothing, whatever the figures are: {listed(few)}.")
    said += _not_measured(found)
    return said + [f"Not everything ran: {problem}." for problem in found.problems]


def _not_above_chance(main: Sequence[Panel], name: str) -> str:
    """Whether a recipe is better than its random control on fewer than two tasks; empty if it is not so."""
    told = {panel.title: verdict(panel.arms[name].over_chance) for panel in main if name in panel.arms}
    measured = {title: one for title, one in told.items() if one is not Verdict.MISSING}
    if measured and all(one is Verdict.TOO_FEW for one in measured.values()):
        return f"too few seeds to tell it from as many random rows, on {count(len(measured), 'task')}"
    better = [title for title, one in measured.items() if one is Verdict.BETTER]
    if len(better) >= min(2, len(measured)):
        return ""
    where = f"only on {better[0]}," if better else "on none"
    return f"shown to be better than as many random rows {where} of {count(len(measured), 'task')}"


def _harm(found: Efficacy, name: str) -> list[str]:
    """Where a model is worse with a recipe than without. Where nothing is wrong one standard error is told, of at least
    as many seeds: a cautious reader's rule, by which one recipe in five without any effect is told of."""
    panels = [panel for panel in found.panels if name in panel.arms]
    worse = [panel for panel in panels if panel.noise > 0 and verdict(panel.arms[name].above) is Verdict.WORSE]
    clean = [panel.title for panel in panels if panel.noise == 0 and _by_an_error(panel.arms[name].above)]
    said = []
    if worse:
        said.append(f"worse than doing nothing on {listed([f'{p.title} at {p.noise:.0%}' for p in worse])}")
    if clean:
        said.append(f"worse by more than one standard error where nothing is wrong, on {listed(clean)}")
    return said


def _not_measured(found: Efficacy) -> list[str]:
    """What these figures say nothing about."""
    tasks = [task.title for name, task in TASKS.items() if not found.of_task(name)]
    kinds = (*RECIPES, "baseline")
    arms = [f"“{name}”" for name, arm in ARMS.items() if arm.kind in kinds and not found.has(name)]
    return [f"Not measured: {listed(names)}." for names in (tasks, arms) if names]


def _of_no_use(panel: Panel) -> str:
    """Whether even the right rows alone teach the base model nothing; empty if they do."""
    oracle = panel.arms.get(ORACLE)
    if panel.base is None or oracle is None or oracle.loss.mean < panel.base.mean:
        return ""
    return (
        f"{capital(panel.title)}: training on the right rows alone makes no better a model than the base"
        f" ({mean(oracle.loss)} against {mean(panel.base)}): what can be won there is harm that is not done."
    )


def _by_an_error(one: Spread | None) -> bool:
    return one is not None and len(one.values) >= SEEDS and one.error is not None and one.mean > one.error


def _unseen(main: Sequence[Panel]) -> list[str]:
    """Kinds of flaws that no signal tells from right rows, each with its tasks."""
    most: dict[str, dict[str, float]] = {}
    for panel in main:
        signals = [arm.signal for arm in panel.arms.values() if arm.signal is not None]
        for signal in [*signals, *panel.measures.values()]:
            for kind, value in signal.by_kind.items():
                of_kind = most.setdefault(kind, {})
                of_kind[panel.title] = max(value, of_kind.get(panel.title, 0.0))
    said = []
    for kind, by_task in most.items():
        unseen = {title: value for title, value in by_task.items() if value < FOUND}
        if unseen:
            said.append(
                f"No signal sees “{kind}” on {listed(list(unseen))}: AUROC at most {max(unseen.values()):.2f}, where"
                " 0.5 is chance."
            )
    return said


def before(panel: Panel) -> str:
    """What the base model could do, and what wrong rows can cost; empty where that was not measured."""
    score = f", {panel.score_name} {mean(panel.base_score)}" if panel.base_score else ""
    said = [f"The base model, before training: {mean(panel.base)} nats{score}." if panel.base else ""]
    if panel.noise > 0 and panel.lost is not None:
        said.append(f"Wrong rows cost {difference(panel.lost)} nats{_at_most(panel)}.")
    return " ".join(filter(None, said))


def _at_most(panel: Panel) -> str:
    if panel.bound is None:
        return ""
    learnt = f"; a model that learns just how many are wrong pays at most {panel.bound:.3f}"
    return f"{learnt}, with {panel.tokens:.1f} tokens in a response"


def share(gap: Interval | None) -> str:
    """A share of the gap with its interval."""
    if gap is None:
        return "–"
    ends = "not bounded" if gap.low is None or gap.high is None else f"{percent(gap.low)} to {percent(gap.high)}"
    return f"{percent(gap.mean)} ({ends})"


def percent(value: float) -> str:
    """Whole per cent, with a true minus."""
    return "0%" if abs(value) < 0.005 else f"{value:.0%}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """With its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def plus_minus(one: Spread, digits: int = 3) -> str:
    """The standard error, where there is one."""
    return "" if one.error is None else f" ± {one.error:.{digits}f}"


def mean(one: Spread | None, digits: int = 3) -> str:
    """Mean ± standard error."""
    return "–" if one is None else f"{one.mean:.{digits}f}".replace("-", "−") + plus_minus(one, digits)


def difference(one: Spread | None, digits: int = 3) -> str:
    """The same of a difference."""
    return "–" if one is None else signed(one.mean, digits) + plus_minus(one, digits)


def count(number: int, noun: str) -> str:
    """“1 task”, “3 tasks”."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """“a, b and c”."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def capital(text: str) -> str:
    """The first letter large, the others as they are."""
    return text[:1].upper() + text[1:]
