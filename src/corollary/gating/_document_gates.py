r"""Peers that weigh experts by what a document looks like: multiple-source adaptation, and clusters (c-BTM).

Symbols: experts \(q_k\), weights z over the sources, \(D_k(x)\) the density of source k at an input x (a document, or
the prefix before a token), features h(x), centres \(c_k\).

- Distribution-weighted combination (Mansour, Mohri, Rostamizadeh, 2009; Hoffman, Mohri, Zhang, 2018):
  \(g_z(x, k) = (z_k D_k(x) + \eta / p \, U) / (\sum_j z_j D_j(x) + \eta U)\). With the experts as densities of the
  prefix it is the Bayes posterior with prior z: `BayesGate(p, z)`.
- c-BTM (Gururangan et al., 2023): \(g(x, k) \propto e^{-\|h(x) - c_k\|^2 / T}\) over the nearest `top` clusters.

Fidelity: reconstructed from the published formulas; the choice of z by equalising losses is the fixed point that the
theory asks for, found here by multiplicative steps instead of DC programming.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.gating._domain_weights import GroupDRO
from corollary.gating._prefix_gates import checked_weights, log_mix


def distribution_weights(
    log_densities: ArrayLike, weights: Any, *, smoothing: float = 0.0, log_background: float | int = 0.0
) -> Float[np.ndarray, "n p"]:
    r"""The weights of a distribution-weighted combination at each input.

    Args:
        log_densities: (N, p) log D_k(x) of each input under each source's density.
        weights: (p,) z.
        smoothing: eta, mass of a background density that keeps the weights defined everywhere.
        log_background: log U of it.

    Returns:
        (N, p) weights; rows sum to one.

    Raises:
        InvalidInputError: for weights that do not sum to one, or inputs impossible under all of them.

    Guarantee: with eta = 0 and exact densities, the combination's loss under the mixture \(\sum_k z_k D_k\) is at most
        \(\sum_k z_k \epsilon_k\), for every loss that is convex in the prediction, eps_k being the loss of predictor k
        on its own source.

    Example:
        >>> distribution_weights(np.log([[0.9, 0.1]]), [0.5, 0.5]).round(6).tolist()
        [[0.9, 0.1]]

    Reference: Mansour, Mohri and Rostamizadeh (2009), Hoffman, Mohri and Zhang (2018); from the published formulas.
    """
    logd = np.asarray(log_densities, dtype=np.float64)
    if logd.ndim != 2 or np.isnan(logd).any() or not smoothing >= 0:
        raise InvalidInputError(
            f"`log_densities` must be (N, p) without NaN and `smoothing` nonnegative, got {logd.shape} and {smoothing}"
        )
    z = checked_weights(weights, logd.shape[1])
    with np.errstate(divide="ignore"):
        joint = np.logaddexp(np.log(z) + logd, np.log(smoothing / len(z)) + log_background)
    if not np.isfinite(joint.max(1)).all():
        raise InvalidInputError("an input is impossible under every source; give some `smoothing`")
    return np.exp(joint - log_mix(joint, 0.0)[:, None])


def source_weights(
    log_densities: ArrayLike, log_predictions: ArrayLike, domain: ArrayLike, *, steps: int = 2000, rate: float = 0.5
) -> Float[np.ndarray, " p"]:
    r"""The z for which the distribution-weighted combination serves all sources alike, hence any mixture of them.

    Args:
        log_densities: (N, p) log D_k(x_n).
        log_predictions: (N, p) log-probability that each expert gives to what was to be predicted there.
        domain: (N,) the source of each row.
        steps: of the search.
        rate: first step of multiplicative weights, over sqrt(t).

    Returns:
        (p,) z with the smallest largest loss that was met.

    Raises:
        InvalidInputError: for shapes that do not fit.

    Guarantee: none at a finite number of steps; a z that equalises the losses of all sources exists (Brouwer).

    Example:
        >>> logd = np.log([[0.8, 0.2], [0.2, 0.8]])
        >>> source_weights(logd, logd, [0, 1]).round(3).tolist()
        [0.5, 0.5]

    Reference: Hoffman, Mohri and Zhang (2018) solve it by DC programming; ours are multiplicative steps.
    """
    logd, logq, k = (np.asarray(a) for a in (log_densities, log_predictions, domain))
    if logd.ndim != 2 or logd.shape != logq.shape or k.shape != logd.shape[:1] or k.dtype.kind not in "iu":
        raise InvalidInputError(
            f"the tables must be (N, p) alike and `domain` (N,) integers, got {logd.shape}, {logq.shape}, {k.shape}"
        )
    rule, best, kept = GroupDRO(logd.shape[1], rate=rate), np.inf, None
    counts = np.bincount(k, minlength=logd.shape[1])
    for t in range(1, steps + 1):
        with np.errstate(divide="ignore"):
            gate = np.log(distribution_weights(logd, rule.weights))
        losses = np.bincount(k, weights=-log_mix(gate, logq), minlength=len(counts)) / np.maximum(counts, 1)
        if losses.max() < best:
            best, kept = float(losses.max()), rule.weights
        rule.rate = rate / t**0.5
        rule.update(losses - losses.max())
    assert kept is not None
    return kept


def cluster_weights(
    features: ArrayLike, centres: ArrayLike, *, temperature: float = 0.1, top: int | None = None
) -> Float[np.ndarray, "n k"]:
    r"""c-BTM's posterior over clusters, \(\propto e^{-\|h - c_k\|^2 / T}\), of the nearest `top`.

    Args:
        features: (N, d) of each prefix or document, as the clusters were made on.
        centres: (K, d) of the clusters, one an expert.
        temperature: T; small values choose one expert, large ones average all.
        top: how many experts are used at each input; all where None.

    Returns:
        (N, K) weights; rows sum to one.

    Raises:
        InvalidInputError: for shapes that do not fit or a temperature that is not positive.

    Guarantee: none on the loss; the nearest cluster never has less weight than another.

    Example:
        >>> cluster_weights([[0.0], [1.0]], [[0.0], [1.0]], top=1).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Reference: Gururangan et al. (2023); from the published formula, may differ.
    """
    h, c = np.asarray(features, dtype=np.float64), np.asarray(centres, dtype=np.float64)
    if h.ndim != 2 or c.ndim != 2 or h.shape[1] != c.shape[1] or not temperature > 0:
        raise InvalidInputError(
            f"`features` (N, d) and `centres` (K, d) must agree and `temperature` be positive, got {h.shape}, "
            f"{c.shape}, {temperature}"
        )
    m = len(c) if top is None else top
    if not 1 <= m <= len(c):
        raise InvalidInputError(f"`top` must lie between 1 and {len(c)}, got {top}")
    distance = (h**2).sum(1)[:, None] - 2 * h @ c.T + (c**2).sum(1)
    scores = -distance / temperature
    order = np.argsort(distance, axis=1, kind="stable")
    np.put_along_axis(scores, order[:, m:], -np.inf, axis=1)
    return np.exp(scores - log_mix(scores, 0.0)[:, None])
