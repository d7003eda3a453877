"""A round of any recipe held against what is known to be wrong: its signals, and what became of the rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from burnish.coordinator.policy.verdict import SET_ASIDE, Action
from burnish.coordinator.records import DecisionRecord
from burnish.coordinator.truth import Known
from burnish.report.calibration import auroc
from burnish.report.truth_data import FlawOutcome, Found, Share, SignalAgainst, TruthRound

# Of losses a right row is expected to have the lower value; of all other signals, the higher one.
_LOSSES = ("loss_pre", "loss_post", "_nll")  # how their names end
_NOT_OF_A_ROW = ("preference", "rank", "gain", "cosine")  # of a candidate, or only of rows that were picked
_NOT_JUDGED = SET_ASIDE | {Action.UNREAD}
_Z = 1.959963984540054  # of a 95% interval
_Judged = tuple[DecisionRecord, str]  # with the flaw, "" for none


def share(part: int, whole: int) -> Share:
    """A share with its Wilson interval: (p + z^2 / 2n -/+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    if not whole:
        return Share(part, whole, None, None, None)
    p, z2 = part / whole, _Z * _Z / whole
    middle, half = p + z2 / 2, _Z * (p * (1 - p) / whole + z2 / (4 * whole)) ** 0.5
    low, high = max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))
    return Share(part, whole, p, low, high)


def hold_against(
    number: int, decisions: Sequence[DecisionRecord], following: Mapping[str, str] | None, known: Mapping[str, Known]
) -> TruthRound | None:
    """One round; None where no row of it is known. `following`: by row of the next data set, its sample; None where it
    is not there yet."""
    rows = [
        (d, known[d.row_id].flaw)
        for d in decisions
        if d.origin == "source" and d.row_id in known and d.actions[0] not in _NOT_JUDGED
    ]
    if not rows:
        return None
    flaws = sorted({flaw for _, flaw in rows if flaw})
    fates = {} if following is None else {d.row_id: _fate(d, following) for d, _ in rows}
    return TruthRound(
        number,
        [_against(name, values, flaws) for name, values in _signals(rows).items()],
        _found(rows, fates) if fates else [],
        [_outcome(flaw, rows, fates) for flaw in (*flaws, "")] if fates else [],
    )


def _fate(decision: DecisionRecord, following: Mapping[str, str]) -> str:
    if decision.row_id not in following:
        return "dropped"
    return "left" if following[decision.row_id] == decision.sample_hash else "rewritten"


def _signals(rows: Sequence[_Judged]) -> dict[str, list[tuple[float, str]]]:
    """By signal, the values that rows have, with their flaw; where rows were picked in an order, that is one."""
    names = list(dict.fromkeys(name for d, _ in rows for name in d.signals if name not in _NOT_OF_A_ROW))
    if "logit" in names:
        names = [name for name in names if name != "weight"]  # the same order, told apart further
    elif not names and any("rank" in d.signals for d, _ in rows):
        last = max(d.signals.get("rank") or 0.0 for d, _ in rows) + 1
        return {"order of picking": [(-(d.signals.get("rank") or last), flaw) for d, flaw in rows]}
    return {name: [(value, flaw) for d, flaw in rows if (value := d.signals.get(name)) is not None] for name in names}


def _against(name: str, values: Sequence[tuple[float, str]], flaws: Iterable[str]) -> SignalAgainst:
    higher = not name.endswith(_LOSSES)
    told = [(value if higher else -value, flaw) for value, flaw in values]

    def against(kinds: Iterable[str]) -> float | None:
        some = [(value, bool(flaw)) for value, flaw in told if not flaw or flaw in kinds]
        return auroc([value for value, _ in some], [wrong for _, wrong in some])

    num_wrong = sum(bool(flaw) for _, flaw in told)
    by_flaw = {flaw: against([flaw]) for flaw in flaws}
    return SignalAgainst(name, higher, against(by_flaw), by_flaw, num_wrong, len(told) - num_wrong)


def _found(rows: Sequence[_Judged], fates: Mapping[str, str]) -> list[Found]:
    """What was done, where it was done at all; both together where both were."""
    kinds = [kind for kind in ("dropped", "rewritten") if kind in fates.values()]
    asked = [((kind,), kind) for kind in kinds] + ([(tuple(kinds), "dropped or rewritten")] if len(kinds) > 1 else [])
    num_wrong = sum(bool(flaw) for _, flaw in rows)
    found = []
    for which, words in asked:
        done = [bool(flaw) for d, flaw in rows if fates[d.row_id] in which]
        found.append(Found(words, share(sum(done), len(done)), share(sum(done), num_wrong)))
    return found


def _outcome(flaw: str, rows: Sequence[_Judged], fates: Mapping[str, str]) -> FlawOutcome:
    mine = [fates[d.row_id] for d, one in rows if one == flaw]
    left, rewritten, dropped = (mine.count(fate) for fate in ("left", "rewritten", "dropped"))
    return FlawOutcome(flaw, left, rewritten, dropped, share(rewritten + dropped, len(mine)))
