r"""Weights of the domains for ONE model that is trained on all of them: the robust alternatives to composing experts.

Symbols: losses \(\ell_k\) of the model in training on a batch of domain k, weights \(w \in \Delta_p\); the model's step
descends \(\sum_k w_k \ell_k\). A rule is one map from weights and losses to weights:

- Group DRO (Sagawa et al., 2020): \(w' \propto w e^{\eta \ell}\).
- DoReMi (Xie et al., 2023): the same on the excess \(\max(\ell - \ell^{ref}, 0)\) over a reference, smoothed by c;
  what is kept is the average, with which a new model is trained.
- Agnostic federated learning (Mohri, Sivek, Suresh, 2019): \(w' = \Pi_{\Delta}(w + \eta \ell)\), a projected step.

Fidelity: reconstructed from the published formulas, papers not read here; batching and schedules are the user's.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.numerics import exponentiated_gradient, project_to_simplex


class _DomainWeights:
    """Weights that climb the losses; a subclass says by which step."""

    def __init__(self, domains: int, *, rate: float) -> None:
        if domains < 1 or not rate > 0:
            raise InvalidInputError(f"there must be a domain and a positive rate, got {domains} and {rate}")
        self.rate = rate
        self.weights = np.full(domains, 1 / domains)
        self.steps = 0
        self._sum = np.zeros(domains)

    @property
    def average(self) -> Float[np.ndarray, " p"]:
        """(p,) mean of the weights played so far; uniform before the first step."""
        return self._sum / self.steps if self.steps else self.weights

    def update(self, losses: ArrayLike) -> Float[np.ndarray, " p"]:
        """Count the weights just played, take in the (p,) losses they met, and return the next ones."""
        given = np.asarray(losses, dtype=np.float64)
        if given.shape != self.weights.shape or not np.isfinite(given).all():
            raise InvalidInputError(
                f"`losses` must be {len(self.weights)} finite values, one a domain, got {given.tolist()}"
            )
        self._sum, self.steps = self._sum + self.weights, self.steps + 1
        self.weights = self._step(given)
        return self.weights

    def _step(self, losses: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class GroupDRO(_DomainWeights):
    r"""Group DRO: multiplicative weights on the losses, \(w' \propto w e^{\eta \ell}\).

    Args:
        domains: p.
        rate: eta, in weights a nat; 0.01 in the paper, more for short runs.

    Guarantee: for losses in [0, B], T steps and rate sqrt(2 log p / T) / B, the mean loss of the weights played is at
        most B sqrt(2 log p / T) below the worst domain's mean loss (multiplicative weights).

    Example:
        >>> rule = GroupDRO(2, rate=float(np.log(3)))
        >>> rule.update([1.0, 0.0]).round(6).tolist()
        [0.75, 0.25]

    Reference: Sagawa, Koh, Hashimoto and Liang (2020); reconstructed from the published formula, may differ.
    """

    def __init__(self, domains: int, *, rate: float = 0.01) -> None:
        super().__init__(domains, rate=rate)

    def _step(self, losses: np.ndarray) -> np.ndarray:
        return exponentiated_gradient(self.weights, losses, rate=self.rate)


class DoReMi(_DomainWeights):
    r"""DoReMi: multiplicative weights on the excess over a reference model, smoothed; train anew with `average`.

    .. math:: w' = (1 - c) \frac{w e^{\eta \max(\ell - \ell^{ref}, 0)}}{\sum} + c / p

    Args:
        reference: (p,) losses of a reference model, e.g. one trained on uniform weights, in the same unit.
        rate: eta; 1 in the paper.
        smoothing: c; 1e-3 in the paper.

    Guarantee: no weight falls below c / p; a domain at or below its reference gains no weight.

    Example:
        >>> rule = DoReMi([1.0, 2.0], smoothing=0.0)
        >>> rule.update([0.5, 2.0]).tolist()  # nobody is above the reference
        [0.5, 0.5]

    Reference: Xie et al. (2023); reconstructed from the published formula, may differ.
    """

    def __init__(self, reference: ArrayLike, *, rate: float = 1.0, smoothing: float = 1e-3) -> None:
        self.reference = np.asarray(reference, dtype=np.float64)
        if self.reference.ndim != 1 or not np.isfinite(self.reference).all():
            raise InvalidInputError(f"`reference` must be finite losses, one a domain, got {np.shape(reference)}")
        super().__init__(len(self.reference), rate=rate)
        self.smoothing = smoothing

    def _step(self, losses: np.ndarray) -> np.ndarray:
        excess = np.maximum(losses - self.reference, 0.0)
        return exponentiated_gradient(self.weights, excess, rate=self.rate, floor=self.smoothing)


class AgnosticFederated(_DomainWeights):
    r"""Agnostic federated learning: a projected ascent step, \(w' = \Pi_\Delta(w + \eta \ell)\).

    Args:
        domains: p.
        rate: eta; of the order of 1 / (B sqrt(T)).

    Guarantee: for losses with norm at most G, T steps and rate sqrt(2 / T) / G, the mean loss of the weights played is
        at most G sqrt(2 / T) below the worst domain's mean loss (projected gradient on a set of diameter sqrt 2).

    Example:
        >>> AgnosticFederated(3, rate=1.0).update([0.5, 0.0, -1.0]).round(6).tolist()
        [0.75, 0.25, 0.0]

    Reference: Mohri, Sivek and Suresh (2019); reconstructed from the published method, may differ.
    """

    def __init__(self, domains: int, *, rate: float = 0.01) -> None:
        super().__init__(domains, rate=rate)

    def _step(self, losses: np.ndarray) -> np.ndarray:
        return project_to_simplex(self.weights + self.rate * losses)


def mixture_of_experts_loss(
    log_probs: ArrayLike, group: ArrayLike, weights: Any
) -> Float[np.ndarray, " g"]:  # fmt: skip
    r"""MDE's stand-in for training on a mixture: the loss of the experts' own mixture, token by token.

    .. math:: \mathrm{CE}_g(\lambda) = \mathbb{E}_{t \in g}\Bigl[-\log \sum_k \lambda_k q_k(x_t | x_{<t})\Bigr]

    Its minimiser over the weights is `fit_static_gate(log_probs)` (pooled) or `fit_static_gate(log_probs, group)`
    (worst group).

    Args:
        log_probs: (total, K) of each token under each expert.
        group: (total,) the group of each token, 0 .. G - 1.
        weights: (K,) lambda, the proportions of a training mixture.

    Returns:
        (G,) predicted losses in nats a token of a model trained on that mixture.

    Raises:
        InvalidInputError: for shapes that do not fit.

    Guarantee: exact where training on a mixture gives the mixture of the experts (tables without a context); convex
        in the weights, and at most log(1 / lambda_k) above expert k.

    Example:
        >>> mixture_of_experts_loss(np.log([[0.5, 0.25], [0.5, 0.75]]), [0, 0], [1.0, 0.0]).round(4).tolist()
        [0.6931]

    Reference: Belenki et al. (2025), optimising data mixtures with mixtures of data experts; from the abstract, may
        differ.
    """
    from corollary.gating._prefix_gates import checked_weights, log_mix

    logq, g = np.asarray(log_probs, dtype=np.float64), np.asarray(group)
    if logq.ndim != 2 or g.shape != logq.shape[:1] or g.dtype.kind not in "iu" or len(g) == 0:
        raise InvalidInputError(f"`log_probs` must be (total, K) and `group` (total,) integers, got {logq.shape}")
    with np.errstate(divide="ignore"):
        losses = -log_mix(np.log(checked_weights(weights, logq.shape[1])), logq)
    return np.bincount(g, weights=losses) / np.bincount(g)
