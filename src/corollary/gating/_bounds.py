r"""Bounds on the robust gate and on the value of the game, known before any solver runs.

Symbols: \(\epsilon_k = \mathrm{KL}(p_k \| q_k)\), \(\sigma_k \propto e^{\epsilon_k}\), \(\pi_\sigma = \sum_k \sigma_k
q_k\), V the
value of the game, C the capacity of the channel from domains to points. All in nats.

Source: arXiv:2602.17554, Proposition 2 and Theorem 3 (read in an extract); the bracket of V, the exact values in
limiting cases and the uniform deviation bound are derived. Every inequality is tested on random worlds.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.gating._band import distributions
from corollary.numerics import jensen_shannon, kl, log_sum_exp, maximise_on_simplex


class Theorem3Bound(NamedTuple):
    """The bound of Theorem 3 and its three parts, in nats.

    Guarantee: see `theorem3_bound`, which makes it.

    Example:
        >>> bound = theorem3_bound([[0.5, 0.5]], [[0.5, 0.5]], [[1.0]], least_favourable=[1.0])
        >>> bound.value.tolist(), bound.sigma
        ([0.0], 0.0)
    """

    value: Float[np.ndarray, "..."]
    sigma: float
    overlap_gain: float
    diversity_gain: Float[np.ndarray, "..."]


class Bracket(NamedTuple):
    """An interval that holds a value."""

    lower: float
    upper: float


def _paired(domains: ArrayLike, experts: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p_k, q = (
        distributions("domains", domains, sum_to_one=True),
        distributions("experts", experts, sum_to_one=False),
    )
    if p_k.shape != q.shape:
        raise InvalidInputError(
            f"there are {p_k.shape} domains and {q.shape} experts; this bound pairs them: give the expert "
            f"of each domain, in order"
        )
    return p_k, q


def expert_errors(domains: ArrayLike, experts: ArrayLike) -> Float[np.ndarray, " p"]:
    r"""\(\epsilon_k = \mathrm{KL}(p_k \| q_k)\) of every domain's own expert.

    Args:
        domains: (p, n) distributions.
        experts: (p, n) the expert of each domain, in the same order.

    Returns:
        (p,) nats; infinite where an expert misses mass.

    Raises:
        InvalidInputError: where they are not paired.

    Guarantee: none needed; it is a definition.

    Example:
        >>> expert_errors([[0.5, 0.5]], [[0.5, 0.5]]).tolist()
        [0.0]
    """
    return kl(*_paired(domains, experts))


def sigma_bound(errors: ArrayLike) -> float:
    r"""\(\log \sum_k e^{\epsilon_k}\), what the sigma gate guarantees on every mixture.

    Args:
        errors: (p,) eps_k in nats.

    Returns:
        nats.

    Raises:
        InvalidInputError: for NaN or an empty list.

    Guarantee: max_k KL(p_k || pi_sigma) <= this, with equality where no expert has mass on another's domain (section
        4.2).

    Example:
        >>> round(sigma_bound([0.0, 0.0]), 4)
        0.6931
    """
    eps = np.asarray(errors, dtype=np.float64)
    if eps.ndim != 1 or eps.size == 0 or np.isnan(eps).any():
        raise InvalidInputError(f"`errors` must be a list of at least one KL divergence, got shape {eps.shape}")
    return np.inf if (eps == np.inf).any() else float(log_sum_exp(eps))


def theorem3_bound(
    domains: ArrayLike, experts: ArrayLike, mixtures: ArrayLike, *, least_favourable: ArrayLike
) -> Theorem3Bound:
    r"""Theorem 3: how far the robust gate can be from each mixture.

    .. math:: \mathrm{KL}(p_\lambda \| \pi_{g^*}) \le \log \sum_k e^{\epsilon_k} - H_\sigma^{\lambda^*}(K | X)
              - \mathrm{JSD}_\lambda(\{p_k\}), \qquad
              H_\sigma^{\lambda^*} = \sum_k \lambda^*_k \, \mathbb{E}_{p_k}\Bigl[-\log \frac{\sigma_k
              q_k}{\pi_\sigma}\Bigr]

    Args:
        domains: (p, n) distributions.
        experts: (p, n) the expert of each domain; rows sum to one.
        mixtures: (..., p) the mixtures lambda to bound.
        least_favourable: (p,) the weights lambda* of a robust gate (`RobustGateSolution.mixture`).

    Returns:
        `Theorem3Bound`: the bound for each mixture, and its parts.

    Raises:
        InvalidInputError: where experts and domains are not paired, or a weight vector has another length.

    Guarantee: holds for the saddle point; for a solution with a duality gap, add the gap. Needs experts that
        sum to one on these points.

    Example:
        >>> p_k = [[1.0, 0.0], [0.0, 1.0]]
        >>> bound = theorem3_bound(p_k, p_k, [0.5, 0.5], least_favourable=[0.5, 0.5])
        >>> abs(round(float(bound.value), 12))  # log 2, minus a diversity gain of log 2
        0.0

    Reference: arXiv:2602.17554, Theorem 3; statement and the start of its proof read in an extract, completed
        here.
    """
    p_k, q = _paired(domains, experts)
    star, lam = np.asarray(least_favourable, dtype=np.float64), np.asarray(mixtures, dtype=np.float64)
    if star.shape != (len(p_k),) or lam.shape[-1:] != (len(p_k),):
        raise InvalidInputError(f"weights of shapes {star.shape} and {lam.shape} do not fit {len(p_k)} domains")
    eps = kl(p_k, q)
    top = sigma_bound(eps)
    sigma = np.exp(eps - top)
    mine = sigma[:, None] * q
    posterior = mine / np.maximum(mine.sum(0), 1e-300)
    surprise = np.where(p_k > 0, -np.log(np.where((p_k > 0) & (posterior > 0), posterior, 1.0)), 0.0)
    overlap = float(star @ (p_k * surprise).sum(1))
    diversity = jensen_shannon(p_k, lam)
    return Theorem3Bound(np.asarray(top - overlap - diversity), top, overlap, diversity)


def capacity(domains: ArrayLike, *, tol: float = 1e-9) -> float:
    r"""Capacity of the channel from domains to points, \(C = \max_\lambda \mathrm{JSD}_\lambda(\{p_k\})\).

    The objective of Blahut and Arimoto, climbed by Newton steps. It is also the robust game with every model
    allowed.

    Args:
        domains: (p, n) distributions.
        tol: gap in nats at which the solver stops.

    Returns:
        nats; a lower bound within `tol`.

    Raises:
        InvalidInputError: for rows that are no distributions.

    Guarantee: C - tol <= result <= C, by concavity (unless round-off stops the solver earlier).

    Example:
        >>> round(capacity([[0.9, 0.1], [0.1, 0.9]]), 6)  # a binary symmetric channel: log 2 - H(0.1)
        0.368064
    """
    p_k = distributions("domains", domains, sum_to_one=True)
    p_k = p_k[:, p_k.any(0)]

    def objective(lam: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        mixture = lam @ p_k
        gradient = kl(p_k, mixture)
        return float(lam @ gradient), gradient, -(p_k / mixture) @ p_k.T

    if len(p_k) == 1:
        return 0.0
    return maximise_on_simplex(objective, np.full(len(p_k), 1 / len(p_k)), tol=tol).value


def game_value_bracket(domains: ArrayLike, experts: ArrayLike) -> Bracket:
    r"""\(C \le V \le \min(C + \max_k \epsilon_k, \log \sum_k e^{\epsilon_k})\), without solving the game.

    Args:
        domains: (p, n) distributions.
        experts: (p, n) the expert of each domain; rows sum to one.

    Returns:
        `Bracket(lower, upper)` in nats.

    Raises:
        InvalidInputError: where experts and domains are not paired.

    Guarantee: V of `robust_gate` lies inside (derived: the lower side since KL >= 0, the upper from static gates), up
        to the 1e-9 of `capacity`.

    Example:
        >>> game_value_bracket([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]).upper.__round__(4)
        0.6931
    """
    eps = expert_errors(domains, experts)
    c = capacity(domains)
    return Bracket(c, float(min(c + eps.max(), sigma_bound(eps))))


def generalisation_bound(rademacher: ArrayLike, samples: ArrayLike, *, loss_range: float, delta: float) -> float:
    r"""How far every gate's cross-entropy on samples can be from the true one, over all domains at once.

    .. math:: \max_k |\mathrm{CE}_k - \widehat{\mathrm{CE}}_k| \le \max_k \Bigl( 2 \mathfrak{R}_{m_k} +
              B \sqrt{\tfrac{\log(2 p / \delta)}{2 m_k}} \Bigr)

    Args:
        rademacher: (p,) Rademacher complexity of the losses -log pi_g at m_k samples, or bounds on it
            (`massart_bound`).
        samples: (p,) m_k, independent samples of each domain.
        loss_range: B, length of an interval that holds every loss; a gate floor keeps it finite.
        delta: probability of failure.

    Returns:
        nats.

    Raises:
        InvalidInputError: for shapes that differ, no samples, or a level outside (0, 1).

    Guarantee: with probability at least 1 - delta, for all gates of the class and all domains at once
        (McDiarmid and symmetrisation; only the class of gates enters, not the experts).

    Example:
        >>> round(generalisation_bound([0.0], [200], loss_range=1.0, delta=0.05), 4)
        0.096

    Reference: standard; the paper's section 4.6 was not seen, its statement may differ.
    """
    rad, m = np.broadcast_arrays(np.asarray(rademacher, dtype=np.float64), np.asarray(samples, dtype=np.float64))
    if rad.ndim != 1 or rad.size == 0 or not (m >= 1).all() or not np.isfinite(rad).all():
        raise InvalidInputError(
            f"`rademacher` and `samples` must be lists of one value a domain, got shapes {rad.shape}, {m.shape}"
        )
    if not (0 < delta < 1 and 0 <= loss_range < np.inf):
        raise InvalidInputError(f"`delta` must lie in (0, 1) and `loss_range` be finite, got {delta} and {loss_range}")
    return float((2 * rad + loss_range * np.sqrt(np.log(2 * len(rad) / delta) / (2 * m))).max())


def massart_bound(size: int, samples: Any, *, loss_range: float) -> Float[np.ndarray, "..."]:
    r"""Massart's bound on the Rademacher complexity of a finite class.

    .. math:: \mathfrak{R}_m \le \tfrac{B}{2} \sqrt{2 \log |G| / m}

    Args:
        size: number of gates in the class.
        samples: (...) m, number of samples.
        loss_range: B; half of it, since moving every loss by a constant leaves the complexity as it is.

    Returns:
        (...) an upper bound.

    Raises:
        InvalidInputError: for an empty class or no samples.

    Guarantee: holds for every sample of that size (Massart's finite class lemma).

    Example:
        >>> massart_bound(1, [10], loss_range=1.0).tolist()
        [0.0]
    """
    m = np.asarray(samples, dtype=np.float64)
    if size < 1 or not (m >= 1).all():
        raise InvalidInputError(f"the class needs a gate and every domain a sample, got {size} gates and {m} samples")
    return np.asarray(loss_range / 2 * np.sqrt(2 * np.log(size) / m))
