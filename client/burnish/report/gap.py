"""The gap recovered: of what training on the right rows only would have gained, how much the run gained. Pure."""

from __future__ import annotations

import numpy as np

from burnish.coordinator.policy.contrast import Scores, contrast
from burnish.report.short_data import Gap

DRAWS, SEED = 2000, 0
_AT_A_TIME = 100  # draws; bounds what is held in memory


def gap_recovered(all_rows: Scores, run: Scores, right_rows: Scores) -> Gap:
    """(all rows - run) / (all rows - right rows only) over the held-out samples that all three have, with a 95%
    percentile bootstrap over these samples, paired. Told only where all rows are worse than right rows only by more
    than one standard error. A draw in which they are not worse at all has no ratio: it counts as beyond any bound,
    above where the run gained in it and below where it did not."""
    names = [name for name in all_rows if name in run and name in right_rows]
    apart = contrast({n: all_rows[n] for n in names}, {n: right_rows[n] for n in names})
    if apart is None:
        return Gap(untold="the three models have no held-out sample in common")
    if not apart.told or apart.difference < 0:
        return Gap(
            untold="training on all rows is not worse than training on the right rows only by more than one standard"
            " error, so that there is no gap to recover"
        )
    nll = np.array([[scores[name][0] for name in names] for scores in (all_rows, run, right_rows)])
    tokens = np.array([all_rows[name][1] for name in names], dtype=float)
    generator = np.random.default_rng(SEED)
    shares = np.full(len(names), 1 / len(names))
    found = []
    for _ in range(0, DRAWS, _AT_A_TIME):
        times = generator.multinomial(len(names), shares, size=_AT_A_TIME)  # how often each sample is drawn
        found.append(_ratios(times @ nll.T / (times @ tokens)[:, None]))
    (value,) = _ratios(nll.sum(axis=1)[None, :] / tokens.sum())
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975], method="nearest")
    return Gap(float(value), float(low), float(high))


def _ratios(losses: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of rows of three losses: all rows, run, right rows only."""
    gained, possible = losses[:, 0] - losses[:, 1], losses[:, 0] - losses[:, 2]
    beyond = np.where(gained > 0, np.inf, -np.inf)
    return np.where(possible > 0, gained / np.where(possible > 0, possible, 1.0), beyond)
