"""Several measures of a row as one, weighed so that trusted rows stand out of the data. Pure.

A classifier tells trusted rows from all rows of the data, of which nobody knows which are right. Where trusted rows are
like the right ones of the data, the odds that it gives rise with the odds that a row is right, whatever share of the
data that is, so that ranking by them is ranking by these (Elkan and Noto, 2008, Learning classifiers from only positive
and unlabeled data, KDD, section 2). Ours are what it looks at, and that it is a logistic regression:

    log n, log mean loss, log summed loss, log of the least likely token's loss, mean probability; and their squares,

each over its spread, with a penalty of RIDGE / 2 on the squared weights. Squares, since a response may be too long or
too short, too surprising or too expected.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from burnish.coordinator.policy.signals import Features

RIDGE = 20.0
FEWEST = 10  # trusted rows
_CONSTANT = 1e-9  # of a measure, what is no spread
_STEPS, _SETTLED = 100, 1e-10  # of Newton's method; the largest change of a weight that counts as none
Floats = NDArray[np.float64]


def calibrated(rows: Mapping[str, Features], trusted: Mapping[str, Features]) -> dict[str, float | None]:
    """By name of a row, how much more it is like trusted rows than like the data, in nats of odds; higher for more, and
    of no meaning but for its order. None for one of which something is not known. Raises ValueError where fewer than
    FEWEST trusted rows are known well enough."""
    there = {name: measures for name, one in rows.items() if (measures := _measures(one)) is not None}
    known = [measures for one in trusted.values() if (measures := _measures(one)) is not None]
    if len(known) < FEWEST:
        raise ValueError(f"{len(known)} trusted rows could be scored; expected at least {FEWEST}, better a hundred")
    if not there:
        return dict.fromkeys(rows)
    data = np.array([*known, *there.values()])
    spread = data.std(axis=0)
    data = (data - data.mean(axis=0)) / np.where(spread > _CONSTANT, spread, 1.0)
    data = np.concatenate([data, data**2], axis=1)
    labels = np.r_[np.ones(len(known)), np.zeros(len(there))]
    odds = data[len(known) :] @ logistic_regression(data, labels, RIDGE)
    found = dict(zip(there, odds.tolist(), strict=True))
    return {name: found.get(name) for name in rows}


def logistic_regression(data: Floats, labels: Floats, ridge: float) -> Floats:
    """The weights, shape (columns,), of a logistic regression of 0 and 1 on `data`, shape (rows, columns), with an
    intercept, which is not penalised and left out of what is returned; by Newton's method, with steps halved until they
    lead down: where a measure has far outliers, whole ones may lead away for good."""
    design = np.concatenate([np.ones((len(data), 1)), data], axis=1)
    penalty = np.r_[1e-9, np.full(data.shape[1], ridge)]

    def loss(weights: Floats) -> float:
        odds = design @ weights
        return float(np.sum(np.logaddexp(0.0, odds) - labels * odds) + penalty @ weights**2 / 2)

    weights = np.zeros(design.shape[1])
    here = loss(weights)
    for _ in range(_STEPS):
        chances = np.exp(-np.logaddexp(0.0, -(design @ weights)))
        slope = design.T @ (chances - labels) + penalty * weights
        curve = (design * (chances * (1 - chances))[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        while (there := loss(weights - step)) > here and np.abs(step).max() >= _SETTLED:
            step = step / 2
        if np.abs(step).max() < _SETTLED:
            break
        weights, here = weights - step, there
    inner: Floats = weights[1:]
    return inner


def _measures(row: Features) -> tuple[float, ...] | None:
    """Losses are moved off 0 by about what one of them is known to."""
    values = (row.num_tokens, row.mean_nll, row.sum_nll, row.max_nll, row.mean_probability)
    if any(value is None or not np.isfinite(value) for value in values):
        return None
    tokens, mean, total, most, probability = (float(value or 0.0) for value in values)
    logs = np.log([max(tokens, 1.0), mean + 0.01, total + 0.05, most + 0.05])
    return (*map(float, logs), probability)
