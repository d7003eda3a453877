"""Weights learnt from a validation set: gradients against finite differences, and whether planted noise is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_services.training.bilevel.selector import (
    LEARNING_RATES,
    MAX_LOGIT,
    SELECTORS,
    SigmoidSelector,
    SoftmaxSelector,
    penalty,
)

ALL = np.arange(6)


def test_penalty_falls_by_epochs_and_stays_a_share() -> None:
    assert [penalty(1.0, 0.03, epoch) for epoch in (0, 1, 2)] == [1.0, 0.97, 0.94]
    assert penalty(0.1, 0.3, 4) == 0.0
    assert penalty(1.0, 0.0, 100) == 1.0


@pytest.mark.parametrize("name", list(SELECTORS))
def test_all_samples_weigh_1_before_anything_was_learnt(name: str) -> None:
    assert SELECTORS[name](6, 0.1).weights(ALL) == pytest.approx(np.ones(6))


def test_the_sigmoids_gradient_is_that_of_its_weights() -> None:
    logits, batch = np.array([-3.0, -1.0, 0.0, 0.5, 2.0, 4.0]), np.array([1, 3, 5])
    losses, reference = np.array([2.0, 1.0, 0.3]), np.array([1.5, 1.2, 0.0])

    def objective(at: np.ndarray) -> float:
        return float((2 / (1 + np.exp(-at[batch])) * (losses - reference)).sum())

    selector = SigmoidSelector(6, learning_rate=1e-3)
    selector.restore({"logits": logits, "baseline": np.array(np.nan)})
    selector.update(batch, losses, reference)
    assert (selector.logits - logits) / -1e-3 == pytest.approx(slope(objective, logits), abs=1e-6)


def test_softmax_descends_the_gradient_of_its_weights() -> None:
    logits, batch = np.array([-1.0, -0.2, 0.0, 0.5, 0.7, 1.0]), np.array([1, 3, 5])
    losses = np.array([2.0, 1.0, 0.3])

    def objective(at: np.ndarray) -> float:
        return float((6 * np.exp(at[batch]) / np.exp(at).sum() * losses).mean())

    expected = slope(objective, logits)
    selector = SoftmaxSelector(6, learning_rate=1.0)
    zeros = np.zeros(6)
    selector.restore({"logits": logits, "first": zeros, "second": zeros, "steps": np.array(0.0)})
    selector.update(batch, losses, None)
    # Adam's first step keeps the gradient as its first moment, a tenth of it.
    assert selector.state()["first"] * 10 == pytest.approx(expected, abs=1e-8)
    assert np.sign(logits - selector.logits).tolist() == np.sign(expected).tolist()
    assert expected.sum() == pytest.approx(0, abs=1e-8)


def slope(objective, at: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """∂objective/∂at by central differences."""
    step = 1e-5
    found = np.zeros(len(at))
    for index in range(len(at)):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        found[index] = (objective(up) - objective(down)) / (2 * step)
    return found


def test_softmax_weights_have_mean_1_whatever_the_logits() -> None:
    selector = SoftmaxSelector(6, learning_rate=0.5)
    for _ in range(20):
        selector.update(np.array([0, 1, 2]), np.array([3.0, 0.1, 0.2]), None)
    assert selector.weights(ALL).mean() == pytest.approx(1.0)
    assert selector.weights(ALL)[0] < selector.weights(ALL)[1]


def test_a_sigmoid_step_touches_its_batch_only_and_stays_within_bounds() -> None:
    selector = SigmoidSelector(6, learning_rate=100.0)
    selector.update(np.array([2, 4]), np.array([5.0, 1.0]), None)
    assert selector.logits.tolist() == [0, 0, -MAX_LOGIT, 0, MAX_LOGIT, 0]


def test_losses_count_against_those_seen_before() -> None:
    selector = SigmoidSelector(4, learning_rate=1.0)
    selector.update(np.array([0, 1]), np.array([2.0, 2.0]), None)
    assert selector.logits[:2].tolist() == [0.0, 0.0]
    # The mean so far is 2.0 and this batch moves it by a hundredth of the way to 3.0.
    selector.update(np.array([2, 3]), np.array([3.0, 3.0]), None)
    assert selector.logits[2:].tolist() == pytest.approx([-0.99, -0.99])


@pytest.mark.parametrize("name", list(SELECTORS))
@pytest.mark.parametrize("auxiliary", [False, True])
@given(seed=st.integers(0, 1000))
def test_what_a_sample_is_called_changes_nothing_and_a_checkpoint_is_whole(
    name: str, auxiliary: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    new_name = random.permutation(12)
    straight, renamed = SELECTORS[name](12, 0.3), SELECTORS[name](12, 0.3)
    for step in range(8):
        batch, losses = random.permutation(12)[:4], random.exponential(size=4)
        reference = random.exponential(size=4) if auxiliary else None
        straight.update(batch, losses, reference)
        renamed.update(new_name[batch], losses, reference)
        if step == 4:
            saved = {key: value.copy() for key, value in renamed.state().items()}
            renamed = SELECTORS[name](12, 0.3)
            renamed.restore(saved)
    # Sums over all samples are taken in another order.
    assert renamed.logits[new_name] == pytest.approx(straight.logits, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "auxiliary"), [("sigmoid", False), ("sigmoid", True), ("softmax", False), ("softmax", True)]
)
def test_planted_noise_is_found(name: str, auxiliary: bool) -> None:
    """Ten classes in twenty dimensions, three labels in ten wrong, a tenth as many clean rows to validate by."""
    found = [toy_auc(name, auxiliary, seed) for seed in range(3)]
    assert min(found) >= 0.9, found


def toy_auc(name: str, auxiliary: bool, seed: int, num_samples: int = 3000, epochs: int = 3) -> float:
    """AUC of the logits, clean against noisy rows, of bilevel selection with a linear model by SGD."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(10, 20))

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(10, size=count)
        return centers[labels] + random.normal(size=(count, 20)), labels

    x, truth = draw(num_samples)
    valid_x, valid_y = draw(300)
    noisy = random.random(num_samples) < 0.3
    y = np.where(noisy, (truth + random.integers(1, 10, size=num_samples)) % 10, truth)

    selector = SELECTORS[name](num_samples, LEARNING_RATES[name])
    theta, helper = np.zeros((20, 10)), np.zeros((20, 10))
    for epoch in range(epochs):
        share = penalty(0.8, 0.05, epoch)
        order = random.permutation(num_samples)
        for start in range(0, num_samples, 32):
            batch = order[start : start + 32]
            pick = random.integers(300, size=32)
            losses, slopes = cross_entropy(theta, x[batch], y[batch])
            _, valid_slopes = cross_entropy(theta, valid_x[pick], valid_y[pick])
            weights = selector.weights(batch)
            reference = None
            if auxiliary:
                reference, helper_slopes = cross_entropy(helper, x[batch], y[batch])
                helper = helper - 0.5 * mean_gradient(weights, helper_slopes, x[batch])
            gradient = share * mean_gradient(np.ones(len(pick)), valid_slopes, valid_x[pick])
            gradient += (1 - share) * mean_gradient(weights, slopes, x[batch])
            theta = theta - 0.5 * gradient
            selector.update(batch, losses, reference)
    ranks = selector.logits.argsort().argsort()
    clean = ~noisy
    return float((ranks[clean].sum() - clean.sum() * (clean.sum() - 1) / 2) / (clean.sum() * noisy.sum()))


def cross_entropy(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The samples' losses, and the slopes of each in its logits."""
    raised = np.exp(x @ theta)
    probabilities = raised / raised.sum(1, keepdims=True)
    slopes = probabilities.copy()
    slopes[np.arange(len(y)), y] -= 1
    return -np.log(probabilities[np.arange(len(y)), y]), slopes


def mean_gradient(weights: np.ndarray, slopes: np.ndarray, x: np.ndarray) -> np.ndarray:
    return x.T @ (weights[:, None] * slopes) / len(weights)


def test_with_an_auxiliary_model_the_step_is_the_hypergradient_in_the_limit() -> None:
    """On quadratics both models are known in closed form, and so is what a logit does to the validation loss."""
    random = np.random.default_rng(3)
    targets, valid, logits = random.normal(size=(6, 4)), random.normal(size=4), random.normal(size=6)

    def omega(at: np.ndarray) -> np.ndarray:
        return 2 / (1 + np.exp(-at))

    def lower(at: np.ndarray) -> np.ndarray:  # argmin of g = mean ω_i |θ − a_i|² / 2
        return omega(at) @ targets / omega(at).sum()

    def validation_loss(at: np.ndarray) -> float:
        return float(((lower(at) - valid) ** 2).sum() / 2)

    exact = slope(validation_loss, logits)
    errors = []
    for share in (1e-2, 1e-4):
        weight = omega(logits).mean() * (1 - share)
        theta = (share * valid + weight * lower(logits)) / (share + weight)
        losses, reference = (((targets - at) ** 2).sum(1) / 2 for at in (theta, lower(logits)))
        selector = SigmoidSelector(6, learning_rate=1e-6)
        selector.restore({"logits": logits, "baseline": np.array(np.nan)})
        selector.update(ALL, losses, reference)
        found = (logits - selector.logits) / 1e-6 / 6 * (1 - share) / share
        errors.append(np.abs(found - exact).max() / np.abs(exact).max())
    assert errors[1] < 1e-3
    assert errors[1] < errors[0] / 20
