"""Part `selection`: a core set of 15%."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.embedding.data import coverage, random_coverage, write_features
from bench.embedding.setup import Report, Setup, say
from bench.embedding.work import Timed, faster, finished, tell, worker
from bench.peers import absent

SHARE = 0.15  # of the rows that is selected
INSTALL = (
    "{python} -m pip install --no-deps --target {folder} apricot-select==0.6.1 scikit-learn==1.7.2 joblib "
    "threadpoolctl submodlib-py==0.0.3"
)
TRIMMED = (
    "with metric='precomputed', which alone keeps it from collecting all selected rows as dense float64, copied for "
    "each pick and never read"
)
LAZY_UP_TO = 100_000  # rows, as the service has it by default


@dataclass(frozen=True)
class Selector:
    """A contender with an optimizer."""

    name: str
    kind: str
    optimizer: str
    package: str = ""  # that must be in --peers-dir


SELECTORS = (
    Selector("burnish lazy", "selection", "lazy"),
    Selector("burnish stochastic", "selection", "stochastic"),
    Selector("submodlib lazy", "submodlib", "lazy", "submodlib_cpp"),
    Selector("submodlib stochastic", "submodlib", "stochastic", "submodlib_cpp"),
    Selector("apricot lazy, trimmed", "apricot-trimmed", "lazy", "apricot"),
    Selector("apricot stochastic, trimmed", "apricot-trimmed", "stochastic", "apricot"),
    Selector("apricot lazy", "apricot", "lazy", "apricot"),
)


def selection(setup: Setup, report: Report) -> None:
    """15% of the rows, by each that is there."""
    why = {package: absent(package, setup.peers_dir) for package in {one.package for one in SELECTORS} - {""}}
    missing = {package: reason for package, reason in why.items() if reason}
    if missing:
        command = INSTALL.format(python=sys.executable, folder=setup.peers_dir)
        report.notes["absent"] = {"why": missing, "install": command}
        say(f"selection: without {', '.join(missing)}; {command}")
    if "apricot" not in missing:
        report.notes["trimmed"] = TRIMMED
    selectors = [one for one in SELECTORS if one.package not in missing]
    for rows in setup.size.selection_rows:
        path = setup.folder / "features.npy"
        write_features(path, rows)
        some = [one for one in selectors if one.optimizer != "lazy" or rows <= LAZY_UP_TO]
        ended = select_of(setup, report, path, rows, some)
        # What was too slow or too large once will be on more rows.
        selectors = [one for one in selectors if one.name not in ended]
        path.unlink()


def select_of(setup: Setup, report: Report, path: Path, rows: int, selectors: Sequence[Selector]) -> set[str]:
    """Turns in which each selects, one process after the other. Returns who did not come to an end."""
    name = f"{rows:,} rows"
    picks = int(SHARE * rows)
    timed: dict[str, list[Timed]] = {one.name: [] for one in selectors}
    for turn in range(setup.size.turns):
        for one in selectors:
            # A second turn of what took long or was stopped would say the same again.
            if turn == 0 or timed[one.name][0].seconds < setup.size.patience / 5:
                timed[one.name].append(select_once(setup, one, path, picks))
    report.note("selection", name, picks=picks)
    tell(report, name, timed)
    tell_coverage(report, name, setup, path, picks, timed)
    ended = {contender: turns[0] for contender, turns in timed.items() if turns[0].ended}
    if ended:
        said = {contender: {"ended": one.ended, **one.answer.get("stopped", {})} for contender, one in ended.items()}
        report.note("selection", name, not_finished=said)
    tell_ratios(report, name, timed)
    return set(ended)


def select_once(setup: Setup, one: Selector, path: Path, picks: int) -> Timed:
    """A process that loads and selects."""
    with worker(setup, one.kind, setup.size.patience) as running:
        loaded = running.ask(load=str(path))
        out = str(selected(setup, one.name))
        timed = loaded if loaded.ended else running.ask(optimizer=one.optimizer, picks=picks, out=out)
    say(f"selection {one.name}: {timed.ended or f'{timed.seconds:.2f} s'}")
    if one.kind == "selection":
        finished(one.name, timed)
    return timed


def selected(setup: Setup, contender: str) -> Path:
    """Where its selection is."""
    return setup.folder / f"{contender}.npy"


def tell_coverage(
    report: Report, name: str, setup: Setup, path: Path, picks: int, timed: dict[str, list[Timed]]
) -> None:
    """What the selections are worth, beside random ones and, where there is one, ours by lazy greedy."""
    packed = np.load(path, mmap_mode="r")
    chance = random_coverage(packed, picks)
    worth = {
        contender: coverage(packed, np.load(selected(setup, contender)))
        for contender, turns in timed.items()
        if not turns[0].ended
    }
    best = worth.get("burnish lazy")
    for contender, value in worth.items():
        report.add(name, contender, "objective", "Σ log(1+c)", [value])
        report.add(name, contender, "of random's", "%", [100 * value / chance])
        if best is not None:
            report.add(name, contender, "of lazy's", "%", [100 * value / best])
    report.note("selection", name, random_objective=chance)


def tell_ratios(report: Report, name: str, timed: dict[str, list[Timed]]) -> None:
    """Each peer beside ours with the same optimizer; a bound where the peer was stopped."""
    at_least = {}
    for contender, turns in timed.items():
        ours = "burnish lazy" if "lazy" in contender else "burnish stochastic"
        if contender.startswith("burnish"):
            continue
        if not turns[0].ended:
            report.ratios[f"{name}: {ours} / {contender}"] = faster(timed[ours], turns)
        elif turns[0].ended.startswith("longer"):
            at_least[f"{ours} / {contender}"] = turns[0].seconds / timed[ours][0].seconds
    if at_least:
        report.note("selection", name, ratio_at_least=at_least)
