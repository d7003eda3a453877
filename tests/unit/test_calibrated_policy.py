"""Several measures as one, weighed by trusted rows: against a reference, and on rows whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit

from burnish.coordinator.policy.calibrated import FEWEST, calibrated, logistic_regression
from burnish.coordinator.policy.signals import Features
from burnish.report.calibration import auroc


def row(tokens: float, mean: float, most: float) -> Features:
    return Features(tokens, mean, tokens * mean, most, math.exp(-mean))


def drawn(rng: np.random.Generator, *, wrong: bool) -> Features:
    """Right responses have about six tokens and a loss of about 1; wrong ones are long, as likely by the token."""
    tokens = rng.integers(15, 40) if wrong else rng.integers(3, 10)
    mean = math.exp(rng.normal(0, 0.5))
    return row(float(tokens), mean, mean * rng.uniform(2, 4))


def test_the_regression_is_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    data, labels = rng.standard_normal((60, 4)), (rng.random(60) < 0.3).astype(float)

    def loss(weights: np.ndarray) -> float:
        logits = weights[0] + data @ weights[1:]
        return float((np.logaddexp(0, logits) - labels * logits).sum() + 2.5 * (weights[1:] ** 2).sum())

    best = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).x
    assert logistic_regression(data, labels, 5.0) == pytest.approx(best[1:], abs=1e-5)


def test_the_regression_settles_where_measures_have_far_outliers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = rng.standard_t(1.2, size=(int(rng.integers(200, 400)), int(rng.integers(1, 11))))
        labels = (data[:, 0] > np.quantile(data[:, 0], 0.8)).astype(float)
        data = (data - data.mean(axis=0)) / data.std(axis=0)
        data = np.concatenate([data, data**2], axis=1)
        weights = logistic_regression(data, labels, 20.0)
        inner = data @ weights
        intercept = brentq(lambda b, odds=inner, y=labels: float((expit(odds + b) - y).sum()), -1e3, 1e3)
        slope = data.T @ (expit(inner + intercept) - labels) + 20.0 * weights
        assert np.abs(slope).max() < 1e-5


def test_what_trusted_rows_have_in_common_is_found_where_no_single_loss_tells() -> None:
    rng = np.random.default_rng(1)
    wrong = {f"w{number}" for number in range(60)}
    rows = {name: drawn(rng, wrong=name in wrong) for name in [*sorted(wrong), *(f"r{n}" for n in range(140))]}
    trusted = {f"t{number}": drawn(rng, wrong=False) for number in range(50)}
    odds = calibrated(rows, trusted)

    def told(values: dict[str, float | None]) -> float | None:
        return auroc([value or 0.0 for value in values.values()], [name in wrong for name in values])

    found, by_loss = told(odds), told({name: -(one.mean_nll or 0.0) for name, one in rows.items()})
    assert found is not None
    assert found > 0.95
    assert by_loss is not None
    assert by_loss < 0.65


def test_too_long_and_too_short_are_both_far_from_what_is_trusted() -> None:
    rng = np.random.default_rng(2)

    def of(tokens: float) -> Features:
        mean = math.exp(rng.normal(0, 0.3))
        return row(tokens, mean, 3 * mean)

    trusted = {f"t{number}": of(float(rng.integers(9, 12))) for number in range(40)}
    rows = {f"r{number}": of(float(tokens)) for number, tokens in enumerate([10] * 60 + [1] * 20 + [90] * 20)}
    odds = [value or 0.0 for value in calibrated(rows, trusted).values()]
    assert min(odds[:60]) > max(odds[60:])


def test_a_row_of_which_something_is_not_known_has_no_value() -> None:
    rng = np.random.default_rng(3)
    trusted = {f"t{number}": drawn(rng, wrong=False) for number in range(FEWEST)}
    rows = {"whole": row(5, 1.0, 3.0), "part": Features(5, 1.0, 5.0), "odd": row(5, math.inf, 3.0)}
    found = calibrated(rows, trusted)
    assert (found["part"], found["odd"]) == (None, None)
    assert found["whole"] is not None
    assert calibrated({"part": Features()}, trusted) == {"part": None}
    assert calibrated(dict.fromkeys("abc", row(5, 1.0, 3.0)), dict.fromkeys("defghijklm", row(5, 1.0, 3.0))) == {
        name: pytest.approx(0.0, abs=1e-6) for name in "abc"
    }
    with pytest.raises(ValueError, match=f"{FEWEST - 1} trusted rows could be scored; expected at least {FEWEST}"):
        calibrated(rows, dict(list(trusted.items())[1:]))
