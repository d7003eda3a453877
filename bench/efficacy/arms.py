"""The arms: what is done to the data before a model is trained on them, each a recipe and its settings.

All are runs of one ledger in a cell. An arm that this build's recipes cannot do is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.efficacy.cell import Cell
from bench.efficacy.plain import PLAIN, PlainSettings
from bench.efficacy.scores import answer_tokens
from bench.efficacy.task import Files
from bench.efficacy.trust import Trust, high, low
from burnish.coordinator.content import digest_of
from burnish.coordinator.errors import InputError
from burnish.coordinator.formats import find_files
from burnish.coordinator.formats.files import digest_files
from burnish.coordinator.recipes.base import RecipeSettings
from burnish.coordinator.recipes.registry import METHODS, settings_of


class Kind(StrEnum):
    """What an arm is there for."""

    NOTHING = "nothing"  # what happens where nobody looks at the data
    ORACLE = "oracle"  # what could be had by knowing what is wrong
    CONTROL = "control"  # as many rows, drawn at random
    BASELINE = "baseline"  # the simple things that people do
    RECIPE = "recipe"
    COMBINATION = "combination"


@dataclass(frozen=True)
class Work:
    """What an arm costs beside being evaluated. `trainings`: the share of the rows that each is on. `helpers`: the same
    of models that only measure, for as many passes, so that they take fewer steps. `learn`: passes
    over all rows while weights are learnt. `score`: passes over all rows that are only read. `generate`: answers to
    each row. `shared`: what other arms need too, by name in `SHARED`."""

    trainings: tuple[float, ...] = (0.7,)  # about what recipes keep
    helpers: tuple[float, ...] = ()
    learn: float = 0.0
    score: float = 0.0
    generate: float = 0.0
    shared: tuple[str, ...] = ()


SHARED: Mapping[str, Work] = {
    "base scores": Work((), score=1.0),
    "scores without prompts": Work((), score=0.5),
    "folds": Work((), helpers=(0.5, 0.5), score=1.0),
    "features": Work((), score=1.0),
}


@dataclass(frozen=True)
class Tokens:
    """How long things may be: a row, and an answer of its task."""

    row: int
    answer: int


@dataclass(frozen=True)
class Arm:
    """One arm. `data`: what the recipe is given. `trusted`: whether it is also given the clean set. `trust`: of a row's
    signals in the ledger, what is the higher the more its recipe trusts the row. `size`: what decides how many rows it
    has in the end, a share or a rule; those with the same have one control."""

    kind: Kind
    recipe: str = PLAIN
    settings: Callable[[Tokens], Mapping[str, Any]] = lambda most: {}
    data: Callable[[Files], Sequence[Path]] = lambda files: [files.training]
    trusted: bool = False
    trust: Trust | None = None
    work: Work = Work()
    size: str = "70%"

    @property
    def chooses(self) -> bool:
        """Whether it leaves out rows by what it finds in them, so that chance is a rival."""
        return self.recipe != PLAIN

    @property
    def told_share(self) -> bool:
        """Whether it is told what share of the rows to keep, which nobody knows of data of their own."""
        return self.chooses and self.size.endswith("%") and self.size != "100%"


NOISY, ORACLE = "all rows", "right rows only"
# Settings that all arms of a cell have alike.
ALIKE = frozenset({"data", "holdout", "model", "seed", "training", "columns", "skip_bad_rows"})
_GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0}
_SAMPLED = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def _filter(
    signal: str,
    *shared: str,
    kind: Kind = Kind.BASELINE,
    trusted: bool = False,
    helpers: tuple[float, ...] = (),
    **more: Any,
) -> Arm:
    settings = {"signal": signal, "among": 0, "weighted": False, **more}
    share = more.get("hold_size", more.get("keep", 0.7))
    work = Work((share,), helpers, score=float(len(helpers)), shared=shared)
    size = "outliers" if "outliers" in more else f"{share:.0%}"
    return Arm(kind, "filter", lambda most: settings, trusted=trusted, trust=high(signal), work=work, size=size)


def _covering(signal: str, trusted: bool = False) -> Arm:
    """Of the rows that a signal trusts those that cover them best, counting by rank."""
    return _filter(
        signal,
        *("base scores", "features"),
        kind=Kind.COMBINATION,
        trusted=trusted,
        among=16,
        keep=0.85,
        hold_size=0.7,
        weighted=True,
    )


def _middo(work: Work, **more: str) -> Arm:
    def settings(most: Tokens) -> Mapping[str, Any]:
        return {"max_attempts": 1, "rewrite": {**_SAMPLED, "max_tokens": most.row}, **more}

    return Arm(Kind.RECIPE, "middo", settings, trust=low("loss_post"), work=work, size="middo")


def _clear(work: Work, trust: Trust, **more: str) -> Arm:
    def settings(most: Tokens) -> Mapping[str, Any]:
        return {"propose": {**_GREEDY, "max_tokens": most.answer}, **more}

    return Arm(Kind.RECIPE, "clear", settings, trust=trust, work=work, size="clear")


def _auto(work: Work, **more: Any) -> Arm:
    # By which signal it goes differs from seed to seed, so that a mean of what that finds would say nothing.
    return Arm(Kind.RECIPE, "auto", lambda most: more, trusted=True, work=work, size="auto")


ARMS: Mapping[str, Arm] = {
    NOISY: Arm(Kind.NOTHING, work=Work((1.0,))),
    ORACLE: Arm(Kind.ORACLE, data=lambda files: [files.right]),
    "direct mix": Arm(Kind.BASELINE, data=lambda files: [files.training, files.validation], work=Work((1.0,))),
    "validation alone": Arm(Kind.BASELINE, data=lambda files: [files.validation], work=Work((0.1,))),
    "longest": _filter("length"),
    "perplexity": _filter("loss", "base scores"),
    "total loss": _filter("total_loss", "base scores"),
    "ifd": _filter("ifd", "base scores", "scores without prompts"),
    "pmi": _filter("pmi", "base scores", "scores without prompts"),
    "weakest, among": _filter("weakest", "base scores", "features", kind=Kind.RECIPE, among=16),
    "weakest, weighted": _filter("weakest", "base scores", "features", kind=Kind.RECIPE, among=16, weighted=True),
    "outliers": _filter("weakest", "base scores", "features", kind=Kind.RECIPE, among=16, outliers=3.5),
    "outliers, weighted": _filter(
        "weakest", "base scores", "features", kind=Kind.RECIPE, among=16, outliers=3.5, weighted=True
    ),
    "all, weighted": _filter("weakest", "base scores", "features", kind=Kind.RECIPE, among=16, weighted=True, keep=1.0),
    "cross loss": _filter("cross_loss", "folds", kind=Kind.RECIPE),
    "cross gain": _filter("cross_gain", "base scores", "folds", kind=Kind.RECIPE),
    "cross weakest": _filter("cross_weakest", "folds", kind=Kind.RECIPE),
    "cross weakest, among": _filter("cross_weakest", "folds", "features", kind=Kind.RECIPE, among=16),
    "trusted weakest": _filter("cross_weakest", kind=Kind.RECIPE, trusted=True, helpers=(0.3,), start="trusted"),
    "trusted weakest, among": _filter(
        "cross_weakest", "features", kind=Kind.RECIPE, trusted=True, helpers=(0.3,), start="trusted", among=16
    ),
    "calibrated, among": _filter("calibrated", "base scores", "features", kind=Kind.RECIPE, trusted=True, among=16),
    "mads": Arm(Kind.RECIPE, "mads", work=Work(shared=("features",))),
    "middo": _middo(work=Work((1.0, 1.0), score=8.0, generate=0.5)),
    "middo, agree": _middo(work=Work((1.0, 1.0), score=12.0, generate=0.5), accept="agree", rejected="drop"),
    "middo, dropped": _middo(work=Work((1.0, 0.9), score=8.0), accept="none", rejected="drop"),
    "clear": _clear(work=Work((0.5, 0.7), score=5.0, generate=0.5), trust=high("confidence"), tier="fast"),
    "clear, weakest": _clear(
        work=Work((0.5, 0.7), score=1.0, generate=0.5, shared=("base scores",)), trust=high("weakest"), signal="weakest"
    ),
    # Learning weights takes a step on the clean set for each on the data, for three epochs.
    "bds": Arm(Kind.RECIPE, "bds", trusted=True, trust=high("logit"), work=Work(learn=6.0)),
    "bmo": Arm(
        Kind.RECIPE,
        "bmo",
        lambda most: {"max_answer_tokens": most.answer},
        trusted=True,
        trust=high("logit"),
        work=Work(learn=6.5, generate=1.2),
    ),
    "auto": _auto(work=Work((1.0, 0.85, 0.7, 0.7, 0.5), shared=("base scores", "features"))),
    "auto, one signal": _auto(work=Work((1.0, 0.85, 0.7, 0.5), shared=("base scores", "features")), rival="none"),
    "auto, covering": _auto(work=Work((1.0, 0.85, 0.7, 0.7, 0.7, 0.5), shared=("base scores", "features")), cover=True),
    "confidence → coverage → weights": _covering("weakest"),
    "calibrated → coverage → weights": _covering("calibrated", trusted=True),
}


def control_of(name: str) -> str:
    """The arm of random rows, as many as another arm has in the end."""
    return f"random, as {name}"


def there(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of these arms, in the table's order, those that this build can do, and those whose recipe it lacks, or whose
    recipe does not know their settings."""
    asked = [name for name in ARMS if name in names]
    known = [name for name in asked if _is_there(name)]
    return known, [name for name in asked if name not in known]


def settings_for(cell: Cell, name: str) -> RecipeSettings:
    """What an arm's run is made by. Raises InputError where a setting is wrong."""
    arm = ARMS[name]
    kind = settings_of(arm.recipe) if arm.chooses else PlainSettings
    most = Tokens(cell.max_tokens, answer_tokens(cell.task, cell.max_tokens))
    values = _values(arm, kind, [str(cell.files.validation)], cell.keep, most)
    return kind.parse({**_common(cell, arm.data(cell.files)), **values, **cell.settings.get(name, {})})


def _values(arm: Arm, kind: type[RecipeSettings], clean: Sequence[str], keep: float, most: Tokens) -> dict[str, Any]:
    """An arm's settings, and of those that recipes have in common such as its recipe has."""
    trusted = {"validation": clean, "trusted": clean} if arm.trusted else {}
    # No recipe trains what it is compared with: these are arms of their own.
    offered = {"keep": keep, "budget": keep, "compare": False, "compare_full": False, "random_subsets": 0, **trusted}
    own = dict(arm.settings(most))
    if "outliers" in own or arm.recipe == "auto":  # outliers and shares say how many go
        del offered["keep"]
    return {key: value for key, value in offered.items() if key in kind.model_fields} | own


def _is_there(name: str) -> bool:
    arm = ARMS[name]
    if not arm.chooses:
        return True
    return arm.recipe in METHODS and not unfit(name, {})


def unfit(name: str, more: Mapping[str, Any]) -> str:
    """Why an arm cannot have more settings; empty for nothing."""
    arm = ARMS[name]
    if not arm.chooses:
        return "it has none of its own; expected those of an arm that is a recipe's"
    if alike := ALIKE & more.keys():
        return (
            f"{', '.join(sorted(alike))} is the same for all arms, which could not be compared otherwise; leave it out"
        )
    kind = settings_of(arm.recipe)
    try:
        kind.parse({"data": "-", "model": "-", **_values(arm, kind, ["-"], 0.5, Tokens(100, 100)), **more})
    except InputError as error:
        return str(error)
    return ""


def plain_settings(cell: Cell, data: Path) -> PlainSettings:
    """Of a training on other rows than an arm of the table has."""
    return PlainSettings.parse(_common(cell, [data]))


def run_folder(cell: Cell, settings: RecipeSettings) -> Path:
    """Where a run of these settings is; the same for arms that are the same run, as at no noise."""
    digests = {name: digest_files(find_files(paths)) if paths else "" for name, paths in settings.files().items()}
    return cell.runs / f"{settings.RECIPE}-{digest_of(settings.identity(digests))[:12]}"


def _common(cell: Cell, data: Sequence[Path]) -> dict[str, Any]:
    return {
        "data": [str(path) for path in data],
        "holdout": [str(cell.files.held_out)],
        "model": cell.model,
        "seed": cell.seed,
        "training": {**cell.training, "seed": cell.seed},
    }
