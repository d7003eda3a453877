"""Weights of samples, learnt while a model is trained: the outer problem of bilevel data selection (BDS). Pure.

    min_s L_V(θ*(s))   where   θ*(s) minimises   g(s, θ) = mean_i ω_i(s) ℓ_i(θ)

Xiao and Chen, arXiv 2511.21056, solved by the value-function penalty of Shen and Chen as in SEAL (arXiv 2410.07471):
θ descends λ ∇L_V + (1 − λ) ∇g, and s descends what the penalty leaves for it,

    mean_{i ∈ B} ω_i(s) e_i,    e_i = ℓ_i(θ) − ℓ_i(θ̂)    with an auxiliary model θ̂ that descends g alone (Algorithm 1),
                                e_i = ℓ_i(θ)              without one (Algorithm 2, SEAL).

ℓ_i is the mean negative log-likelihood of the response tokens of sample i, in nats; ω_i has mean 1 to begin with, so
that a weight above 1 says that the validation set asks for more of sample i.

Owns logits, weights and λ; the models, their losses and what is done with the weights are the trainer's business.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_LOGIT = 10.0
_BASELINE_DECAY = 0.99
_BETA1, _BETA2, _EPSILON = 0.9, 0.95, 1e-8


def penalty(start: float, decay: float, epoch: int) -> float:
    """λ in `epoch` (from 0): the share of the validation loss in a step, `start` less `decay` for each epoch, in
    [0, 1]. At 1 the model learns from the validation set alone while the selector ranks samples by its loss."""
    return min(1.0, max(0.0, start - decay * epoch))


class Selector(Protocol):
    """Logits of N samples and the weights that follow from them. `indices` of a batch are different from each other."""

    @property
    def logits(self) -> Floats:
        """(N,), one for each sample; the higher, the more the validation set asks for it."""
        ...

    def weights(self, indices: Indices) -> Floats:
        """ω of the samples at `indices`, > 0."""
        ...

    def update(self, indices: Indices, losses: Floats, reference: Floats | None) -> None:
        """One step on a batch, with the samples' losses in nats under θ and, with an auxiliary model, under θ̂.
        All finite."""
        ...

    def state(self) -> dict[str, NDArray[np.float64]]:
        """Everything that a checkpoint must hold."""
        ...

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """Takes over what `state` returned."""
        ...


class SigmoidSelector:
    """ω_i = 2σ(s_i), by sparse gradient descent: a step costs O(batch), whatever N is.

    Without an auxiliary model every gradient of ω_i ℓ_i is positive and all weights fall. So losses are taken against a
    running mean b of the losses seen, which asks the same question of each sample, whether it is explained worse than
    others: s_i ← s_i − η (ℓ_i − b), where the slope of the sigmoid is left out so that a sample that was once written
    off can come back. With one, the gradient is exact: s_i ← s_i − η ω_i (2 − ω_i) / 2 (ℓ_i(θ) − ℓ_i(θ̂)).
    The centring is our derivation, no part of the published method.
    """

    def __init__(self, num_samples: int, learning_rate: float) -> None:
        self._logits = np.zeros(num_samples)
        self._learning_rate = learning_rate
        self._baseline = np.nan  # until losses were seen

    @property
    def logits(self) -> Floats:
        """See Selector."""
        return self._logits

    def weights(self, indices: Indices) -> Floats:
        """See Selector; in (0, 2)."""
        return 2.0 / (1.0 + np.exp(-self._logits[indices]))

    def update(self, indices: Indices, losses: Floats, reference: Floats | None) -> None:
        """See Selector."""
        if reference is None:
            mean = float(losses.mean())
            seen = not np.isnan(self._baseline)
            self._baseline = _BASELINE_DECAY * self._baseline + (1 - _BASELINE_DECAY) * mean if seen else mean
            gradient = losses - self._baseline
        else:
            weights = self.weights(indices)
            gradient = weights * (2.0 - weights) / 2.0 * (losses - reference)
        moved = self._logits[indices] - self._learning_rate * gradient
        self._logits[indices] = np.clip(moved, -MAX_LOGIT, MAX_LOGIT)

    def state(self) -> dict[str, NDArray[np.float64]]:
        """See Selector."""
        return {"logits": self._logits, "baseline": np.array(self._baseline)}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """See Selector."""
        self._logits, self._baseline = state["logits"].copy(), float(state["baseline"])


class SoftmaxSelector:
    """ω = N softmax(s), by Adam, as SEAL does it. An update is arithmetic on N numbers: 31 ms at a million, measured,
    where that of the sigmoid on 32 samples takes 0.01 ms."""

    def __init__(self, num_samples: int, learning_rate: float) -> None:
        self._logits = np.full(num_samples, 0.1)
        self._learning_rate = learning_rate
        self._first = np.zeros(num_samples)
        self._second = np.zeros(num_samples)
        self._steps = 0
        self._weights = _softmax(self._logits)  # kept, since a step asks for them batch by batch

    @property
    def logits(self) -> Floats:
        """See Selector."""
        return self._logits

    def weights(self, indices: Indices) -> Floats:
        """See Selector; their mean over all N is 1."""
        return self._weights[indices]

    def update(self, indices: Indices, losses: Floats, reference: Floats | None) -> None:
        """See Selector."""
        excess = losses if reference is None else losses - reference
        weights = self._weights
        weighted = weights[indices] * excess
        # ∂ω_i/∂s_j = ω_i (1[i = j] − ω_j / N): every logit moves, and the sum of all gradients is 0.
        gradient = -weights * (weighted.mean() / len(weights))
        gradient[indices] += weighted / len(indices)
        self._adam(gradient)
        self._weights = _softmax(self._logits)

    def _adam(self, gradient: Floats) -> None:
        self._steps += 1
        self._first += (1 - _BETA1) * (gradient - self._first)
        self._second += (1 - _BETA2) * (gradient**2 - self._second)
        first = self._first / (1 - _BETA1**self._steps)
        second = self._second / (1 - _BETA2**self._steps)
        self._logits -= self._learning_rate * first / (np.sqrt(second) + _EPSILON)

    def state(self) -> dict[str, NDArray[np.float64]]:
        """See Selector."""
        moments = {"first": self._first, "second": self._second, "steps": np.array(float(self._steps))}
        return {"logits": self._logits, **moments}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        """See Selector."""
        self._logits, self._first, self._second = (state[name].copy() for name in ("logits", "first", "second"))
        self._steps = int(state["steps"])
        self._weights = _softmax(self._logits)


def _softmax(logits: Floats) -> Floats:
    """N softmax: of mean 1."""
    raised = np.exp(logits - logits.max())
    weights: Floats = raised * (len(raised) / raised.sum())
    return weights


SELECTORS: dict[str, type[SigmoidSelector] | type[SoftmaxSelector]] = {
    "sigmoid": SigmoidSelector,
    "softmax": SoftmaxSelector,
}
# Of the sigmoid: a loss one nat above the others takes a logit down by this at each visit. Of softmax: SEAL's.
LEARNING_RATES = {"sigmoid": 0.5, "softmax": 5e-3}
