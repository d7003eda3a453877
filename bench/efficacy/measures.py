"""How well an arm tells wrong rows from right ones, given the truth; and numbers over seeds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.report.calibration import auroc


@dataclass(frozen=True)
class HeldOut:
    """One model's held-out rows, shape (rows,): `values` summed over a row, and what they are summed over. Losses have
    nats and tokens, scores have scores and ones."""

    values: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Over all tokens, or rows."""
        return float(self.values.sum() / self.sizes.sum())


@dataclass(frozen=True)
class Spread:
    """A mean over seeds. `error`: its standard error; None for one seed."""

    mean: float
    error: float | None
    values: tuple[float, ...]


def spread(values: Iterable[float]) -> Spread | None:
    """None where there is no value."""
    found = tuple(values)
    if not found:
        return None
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return Spread(statistics.fmean(found), error, found)


@dataclass(frozen=True)
class Detection:
    """`auroc` of the trust in right rows against wrong ones; `precision`: wrong among dropped; `recall`: dropped among
    wrong. `by_kind`: of each kind of flaw, the recall; `auroc_by_kind`: right rows against those alone. None where it
    cannot be told."""

    auroc: float | None
    precision: float | None
    recall: float | None
    by_kind: Mapping[str, float]
    auroc_by_kind: Mapping[str, float]


def detection(trust: Mapping[str, float], dropped: Collection[str], flaws: Mapping[str, str]) -> Detection:
    """`trust`: of the rows that have any, how much the arm trusts them. `dropped`: rows that are not in its data as
    they came. `flaws`: the kind of flaw, of wrong rows."""
    kinds = sorted(set(flaws.values()))
    found = {row for row in dropped if row in flaws}
    by_kind = {}
    for kind in kinds:
        of_kind = [row for row, flaw in flaws.items() if flaw == kind]
        by_kind[kind] = sum(row in found for row in of_kind) / len(of_kind)
    against = {kind: _against(trust, flaws, [kind]) for kind in kinds}
    return Detection(
        auroc=_against(trust, flaws, kinds),
        precision=len(found) / len(dropped) if dropped else None,
        recall=len(found) / len(flaws) if flaws else None,
        by_kind=by_kind,
        auroc_by_kind={kind: value for kind, value in against.items() if value is not None},
    )


def _against(trust: Mapping[str, float], flaws: Mapping[str, str], kinds: Collection[str]) -> float | None:
    """AUROC of the right rows against those with a flaw of these kinds."""
    told = [(value, row in flaws) for row, value in trust.items() if row not in flaws or flaws[row] in kinds]
    return auroc([value for value, _ in told], [wrong for _, wrong in told])
