r"""Entropies and divergences of finite distributions, in nats and float64.

Symbols: distributions on the last axis; \(0 \log 0 = 0\) and \(p \log(p/0) = \infty\) throughout. Formulas
are textbook.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError


def _measure(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise InvalidInputError(f"`{name}` needs at least one point on its last axis, got shape {array.shape}")
    if not np.isfinite(array).all() or (array < 0).any():
        raise InvalidInputError(f"`{name}` holds NaN, infinite or negative values; give probabilities")
    return array


def entropy(p: ArrayLike) -> Float[np.ndarray, "..."]:
    r"""Entropy of each distribution.

    .. math:: H(p) = -\sum_x p(x) \log p(x)

    Args:
        p: (..., n) probabilities on the last axis.

    Returns:
        (...) nats.

    Raises:
        InvalidInputError: for NaN, negative or no values.

    Guarantee: none needed; it is a definition.

    Example:
        >>> entropy([[0.5, 0.5], [1.0, 0.0]]).round(4).tolist()
        [0.6931, 0.0]
    """
    p = _measure("p", p)
    return np.asarray((p * -np.log(np.where(p > 0, p, 1.0))).sum(-1) + 0.0)


def kl(p: ArrayLike, q: ArrayLike) -> Float[np.ndarray, "..."]:
    r"""Kullback-Leibler divergence, over the last axis.

    .. math:: \mathrm{KL}(p \| q) = \sum_x p(x) \log \frac{p(x)}{q(x)}

    Args:
        p: (..., n) probabilities.
        q: (..., n) probabilities or any nonnegative weights, broadcast against `p`.

    Returns:
        (...) nats; infinite where q misses mass of p. Negative values can occur where q sums to more than
        one.

    Raises:
        InvalidInputError: for NaN, negative or no values.

    Guarantee: none needed; it is a definition.

    Example:
        >>> kl([0.5, 0.5], [[0.5, 0.5], [1.0, 0.0]]).tolist()
        [0.0, inf]
    """
    p, q = np.broadcast_arrays(_measure("p", p), _measure("q", q))
    some = p > 0
    with np.errstate(divide="ignore"):
        terms = np.where(some, p * (np.log(np.where(some, p, 1.0)) - np.log(np.where(some, q, 1.0))), 0.0)
    return np.asarray(terms.sum(-1))


def jensen_shannon(p: ArrayLike, weights: ArrayLike | None = None) -> Float[np.ndarray, "..."]:
    r"""Jensen-Shannon divergence of several distributions under weights.

    .. math:: \mathrm{JSD}_\lambda = \sum_k \lambda_k \mathrm{KL}\Bigl(p_k \Big\| \sum_j \lambda_j p_j\Bigr)

    Args:
        p: (k, n) distributions.
        weights: (..., k) mixture weights that sum to one; uniform where None.

    Returns:
        (...) nats, between 0 and the entropy of the weights.

    Raises:
        InvalidInputError: for NaN, negative or no values, or where the numbers of weights and rows differ.

    Guarantee: none needed; it is a definition.

    Example:
        >>> round(float(jensen_shannon([[1.0, 0.0], [0.0, 1.0]])), 4)
        0.6931
    """
    p = _measure("p", p)
    if p.ndim != 2:
        raise InvalidInputError(f"`p` must be (k, n), one distribution a row, got shape {p.shape}")
    lam = np.full(len(p), 1 / len(p)) if weights is None else _measure("weights", weights)
    if lam.shape[-1] != len(p):
        raise InvalidInputError(f"`weights` ends in {lam.shape[-1]} values for {len(p)} distributions; give one each")
    # From the definition, not as a difference of entropies: that one cancels where the rows nearly agree.
    each = kl(p, (lam @ p)[..., None, :])
    return np.asarray(np.where(lam > 0, lam * np.where(lam > 0, each, 0.0), 0.0).sum(-1))


def log_sum_exp(values: ArrayLike, *, weights: ArrayLike | None = None, axis: int = -1) -> Float[np.ndarray, "..."]:
    r"""\(\log \sum_i w_i e^{a_i}\) without overflow.

    Args:
        values: (..., n) exponents; minus infinity stands for zero.
        weights: nonnegative weights, broadcast against `values`; one each where None.
        axis: the axis that is summed.

    Returns:
        `values` without that axis; minus infinity for an empty sum.

    Raises:
        InvalidInputError: for NaN or plus infinity, or a negative weight.

    Guarantee: none needed; it is a definition.

    Example:
        >>> log_sum_exp([1000.0, 1000.0], weights=[0.5, 0.5]).tolist()
        1000.0
    """
    a = np.asarray(values, dtype=np.float64)
    if np.isnan(a).any() or (a == np.inf).any():
        raise InvalidInputError(
            "`values` holds NaN or plus infinity; only finite values and minus infinity have a meaning"
        )
    w = np.ones(()) if weights is None else _measure("weights", weights)
    with np.errstate(divide="ignore"):
        a = a + np.log(w)
        top = np.max(a, axis=axis, keepdims=True, initial=-np.inf)
        top = np.where(np.isfinite(top), top, 0.0)
        return np.asarray(np.squeeze(top, axis) + np.log(np.exp(a - top).sum(axis)))
