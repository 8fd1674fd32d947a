r"""Static gates: one vector of weights for every input.

Symbols: weights w over the experts, model \(\pi_w = \sum_j w_j q_j\), errors \(\epsilon_k = \mathrm{KL}(p_k \| q_k)\).
The sigma gate \(\sigma_k \propto e^{\epsilon_k}\) is the best static gate where no expert has mass on another's domain,
and its worst
divergence is never above \(\log \sum_k e^{\epsilon_k}\). For other domains the best static gate is a convex program,
solved here by Newton steps on a smoothed maximum.

Source: arXiv:2602.17554, section 4.2 (sigma gate; read in an extract). The solver is derived.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.gating._band import distributions
from corollary.gating._bounds import expert_errors
from corollary.numerics import kl, maximise_on_simplex

SMOOTHING = 0.2  # factor by which the smoothed maximum approaches the maximum


@dataclass(frozen=True, eq=False)
class StaticWeights:
    """Weights over the experts, and what they give.

    Args:
        weights: (q,) weights, the same for every input.
        losses: (p,) KL(p_k || pi) in nats, or cross-entropy minus the entropy given, for each domain.
        upper: the largest of them.
        lower: no static gate guarantees less.

    Guarantee: the best static gate's worst loss lies in [lower, upper], by convexity.

    Example:
        >>> from corollary.gating import best_static_gate
        >>> best_static_gate([[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.1, 0.9]]).weights.round(4).tolist()
        [0.5, 0.5]
    """

    weights: Float[np.ndarray, " q"]
    losses: Float[np.ndarray, " p"]
    upper: float
    lower: float


def sigma_gate(domains: ArrayLike, experts: ArrayLike) -> StaticWeights:
    r"""The static gate with weights \(\sigma_k = e^{\epsilon_k} / \sum_j e^{\epsilon_j}\).

    Args:
        domains: (p, n) distributions.
        experts: (p, n) the expert of each domain, in the same order.

    Returns:
        `StaticWeights`; its `lower` is 0, since no solver is run.

    Raises:
        InvalidInputError: where experts and domains are not paired, or an expert is infinitely far from its
        domain.

    Guarantee: `upper` <= log sum_k exp(eps_k) (arXiv:2602.17554, appendix B as announced in section 4.2), with
        equality,
        and optimal among static gates, where no expert has mass on another's domain (disjoint domains alone do not
        suffice).

    Example:
        >>> gate = sigma_gate([[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]])
        >>> gate.weights.round(4).tolist()  # the worse expert gets the larger weight
        [0.6667, 0.3333]
    """
    p_k, q = (
        distributions("domains", domains, sum_to_one=True),
        distributions("experts", experts, sum_to_one=False),
    )
    eps = expert_errors(p_k, q)
    if not np.isfinite(eps).all():
        worst = int(eps.argmax())
        raise InvalidInputError(
            f"expert {worst} misses mass of its domain, so its error is infinite; smooth the expert"
        )
    sigma = np.exp(eps - eps.max())
    sigma /= sigma.sum()
    losses = kl(p_k, sigma @ q)
    return StaticWeights(sigma, losses, float(losses.max()), 0.0)


def best_static_gate(domains: ArrayLike, experts: ArrayLike, *, tol: float = 1e-6) -> StaticWeights:
    r"""The static gate with the smallest worst divergence, \(\min_w \max_k \mathrm{KL}(p_k \| \sum_j w_j q_j)\).

    Args:
        domains: (p, n) distributions.
        experts: (q, n) experts, in any number.
        tol: gap in nats at which the solver stops.

    Returns:
        `StaticWeights`.

    Raises:
        InvalidInputError: for rows that are no distributions, or mass where every expert is zero.

    Guarantee: `lower <= optimum <= upper`, by convexity; the gap is at most `tol` unless round-off stops it
        earlier.

    Example:
        >>> gate = best_static_gate([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]])
        >>> gate.weights.round(3).tolist(), round(gate.upper, 4)  # the sigma gate
        ([0.667, 0.333], 1.0986)

    Reference: arXiv:2602.17554, section 4.2, in an extract; the solver is derived.
    """
    p_k, q = (
        distributions("domains", domains, sum_to_one=True),
        distributions("experts", experts, sum_to_one=False),
    )
    if p_k.shape[1] != q.shape[1]:
        raise InvalidInputError(
            f"domains have {p_k.shape[1]} points and experts {q.shape[1]}; list both on the same points"
        )
    if (p_k[:, (q == 0).all(0)] > 0).any():
        raise InvalidInputError(
            "a domain has mass where every expert is zero, so every gate is infinitely far; smooth the experts"
        )
    offsets = (p_k * np.log(np.where(p_k > 0, p_k, 1.0))).sum(1)
    used = p_k.any(0)
    return _minimax(p_k[:, used], q[:, used], offsets, tol)


def fit_static_gate(
    log_likelihoods: ArrayLike,
    domain: ArrayLike | None = None,
    *,
    entropies: ArrayLike | None = None,
    tol: float = 1e-6,
) -> StaticWeights:
    r"""Static weights fitted to scored documents: to their pooled likelihood, or to the worst domain.

    .. math:: \max_w \frac1N \sum_n \log \sum_j w_j q_j(x_n) \qquad \text{or} \qquad
              \min_w \max_k \bigl(\mathrm{CE}_k(w) - h_k\bigr)

    The first is the fixed point of EM, reached by Newton steps.

    Args:
        log_likelihoods: (N, q) log-likelihood of each document under each expert, in nats.
        domain: (N,) domain of each document, 0 .. p - 1; None pools all documents.
        entropies: (p,) h_k in nats, zeros where None. Only differences between domains matter.
        tol: gap in nats at which the solver stops.

    Returns:
        `StaticWeights`; losses are the cross-entropies minus the entropies, in nats a document.

    Raises:
        InvalidInputError: for NaN, documents impossible under every expert, or domains without documents.

    Guarantee: optimal on these documents within `upper - lower`; nothing is said about others.

    Example:
        >>> fit_static_gate(np.log([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])).weights.round(3).tolist()
        [0.708, 0.292]
    """
    logq = np.asarray(log_likelihoods, dtype=np.float64)
    if logq.ndim != 2 or 0 in logq.shape:
        raise InvalidInputError(f"`log_likelihoods` must be (N, q), got shape {logq.shape}")
    top = logq.max(1)
    if np.isnan(logq).any() or not np.isfinite(top).all():
        raise InvalidInputError(
            "`log_likelihoods` holds NaN or a document impossible under every expert; drop such rows"
        )
    rows = np.zeros(len(logq), dtype=np.int64) if domain is None else np.asarray(domain)
    if rows.shape != top.shape or rows.dtype.kind not in "iu" or rows.min() < 0:
        raise InvalidInputError(
            f"`domain` must be ({len(logq)},) integers from 0, got shape {rows.shape} of {rows.dtype}"
        )
    counts = np.bincount(rows)
    if (counts == 0).any():
        raise InvalidInputError(f"domain {int(counts.argmin())} has no documents; number the domains without holes")
    h = np.zeros(len(counts)) if entropies is None else np.asarray(entropies, dtype=np.float64)
    if h.shape != counts.shape or not np.isfinite(h).all():
        raise InvalidInputError(f"`entropies` must be {len(counts)} finite values, one a domain, got shape {h.shape}")
    p_k = np.zeros((len(counts), len(logq)))
    p_k[rows, np.arange(len(logq))] = 1 / counts[rows]
    # Every document scaled by its best expert: a constant per domain, moved into the offset.
    return _minimax(p_k, np.exp(logq - top[:, None]).T, -h - p_k @ top, tol)


def _minimax(p_k: np.ndarray, q: np.ndarray, offsets: np.ndarray, tol: float) -> StaticWeights:
    """Minimise over w the largest of `offsets_k - sum_x p_k log(w q)`."""
    if not tol > 0:
        raise InvalidInputError(f"`tol` must be a positive gap in nats, got {tol}")

    def losses(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pi = w @ q
        return offsets - p_k @ np.log(pi), q / pi

    def lower(w: np.ndarray, lam: np.ndarray) -> float:
        """What convexity gives at w for the mixture lam of the losses."""
        each, ratio = losses(w)
        slope = -(lam @ p_k) @ ratio.T
        return float(lam @ each - slope @ w + slope.min())

    def soft(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        each, ratio = losses(w)
        top, lam = _barrier_maximum(each, beta)
        slopes = -p_k @ ratio.T
        bend = lam**2 / beta
        mean = bend @ slopes
        hessian = (ratio * (lam @ p_k)) @ ratio.T + slopes.T * bend @ slopes - np.outer(mean, mean) / bend.sum()
        return -top, -(lam @ slopes), -hessian

    w, best = np.full(len(q), 1 / len(q)), -np.inf
    beta, last = 0.1, tol / (4 * len(p_k))
    while True:
        w = maximise_on_simplex(soft, w, tol=max(beta, tol) / 4).point
        each = losses(w)[0]
        best = max(best, lower(w, _barrier_maximum(each, beta)[1]))
        if beta <= last or each.max() - best <= tol:
            return StaticWeights(w, each, float(each.max()), best)
        beta = max(SMOOTHING * beta, last)


def _barrier_maximum(values: np.ndarray, beta: float) -> tuple[float, np.ndarray]:
    r"""A smooth maximum of f and its weights, which sum to one.

    .. math:: \min_t t - \beta \sum_k \log(t - f_k), \qquad \beta / (t - f_k)
    """
    below = values.max() - values
    small, large = beta, beta * len(values)  # of t - max f
    for _ in range(100):
        middle = (small + large) / 2
        small, large = (middle, large) if (beta / (middle + below)).sum() > 1 else (small, middle)
    weights = beta / (large + below)
    return float(values.max() + large - beta * np.log(large + below).sum()), weights / weights.sum()
