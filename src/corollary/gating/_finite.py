r"""The robust gate on a finite space, solved exactly, with a certificate of its duality gap.

Symbols: domains \(p_k\), experts \(q_j\), models \(\pi\) of the band (`_band.py`), mixtures \(p_\lambda = \sum_k
\lambda_k p_k\).

.. math:: V = \min_\pi \max_{\lambda} \mathrm{KL}(p_\lambda \| \pi) = \max_\lambda \Phi(\lambda), \qquad
          \Phi(\lambda) = \min_\pi \sum_k \lambda_k \mathrm{KL}(p_k \| \pi)

The KL is convex in lambda, so its largest value is at a domain. Phi is concave, and its gradient is the vector of
\(\mathrm{KL}(p_k \| \pi_\lambda)\) at the inner minimum, which is a clipped multiple of the mixture. Where the mixtures
are restricted to a polytope, its extreme points v take the place of the domains: \(p_v = \sum_k v_k p_k\).

Source: arXiv:2602.17554, sections 2 and 4 (read in an extract; the solver is derived, and checked in the
    tests).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.certificates import Assumption, Certificate, Reference
from corollary.errors import InvalidInputError
from corollary.gating import _finite_certificate  # noqa: F401  registers the rule
from corollary.gating._band import Band, band, distributions, fill, gate_from_density
from corollary.numerics import exponentiated_gradient, kl, maximise_on_simplex, polytope_vertices

REFERENCE = Reference(
    "Cortes, Mohri and Zhong, arXiv:2602.17554",
    "the minimax problem of section 2 and its linearised game",
    "sections 2 to 4.2 read in an extract; solver and duality certificate derived here",
)


@dataclass(frozen=True, eq=False)
class RobustGateSolution:
    """A gate on a finite space, its model, the least favourable mixture, and bounds on the value of the game.

    Args:
        pi: (n,) the model, a point of the band.
        gate: (q, n) a gate that gives it; columns sum to one.
        mixture: (p,) weights over the domains at which the lower bound is attained.
        weights: (m,) weights over the extreme points (the domains where mixtures are not restricted).
        extreme_points: (m, p) extreme mixtures.
        divergences: (m,) KL(p_v || pi) in nats, for each extreme mixture.
        upper: largest of them: what `pi` guarantees.
        lower: Phi(weights): no gate guarantees less.
        history: (steps, 2) lower bound and gap, as the solver went.
        evidence: what `certificate.check(**evidence)` takes.
        certificate: of `upper`, and of the gap.

    Guarantee: lower <= V <= upper, see `certificate`.

    Example:
        >>> from corollary.gating import robust_gate
        >>> solution = robust_gate([[0.9, 0.1], [0.1, 0.9]], [[0.8, 0.2], [0.2, 0.8]])
        >>> bool(solution.gap <= 1e-4), bool(solution.certificate.check(**solution.evidence))
        (True, True)
    """

    pi: Float[np.ndarray, " n"]
    gate: Float[np.ndarray, "q n"]
    mixture: Float[np.ndarray, " p"]
    weights: Float[np.ndarray, " m"]
    extreme_points: Float[np.ndarray, "m p"]
    divergences: Float[np.ndarray, " m"]
    upper: float
    lower: float
    history: Float[np.ndarray, "steps 2"]
    evidence: dict[str, Any]
    certificate: Certificate

    @property
    def gap(self) -> float:
        """Upper minus lower bound, in nats."""
        return self.upper - self.lower


def robust_gate(
    domains: ArrayLike,
    experts: ArrayLike,
    *,
    tol: float = 1e-4,
    mixtures: ArrayLike | None = None,
    inequalities: tuple[ArrayLike, ArrayLike] | None = None,
    normalise: str = "strict",
    max_steps: int = 500,
) -> RobustGateSolution:
    r"""The gate whose model is closest in KL to the worst mixture of the domains.

    .. math:: \min_{\pi} \max_{\lambda \in \Lambda} \mathrm{KL}(p_\lambda \| \pi), \qquad
              \min_j q_j \le \pi \le \max_j q_j, \quad \sum_x \pi(x) = 1

    Args:
        domains: (p, n) distributions, one a row.
        experts: (q, n) frozen experts on the same points, in any number; rows sum to one unless `normalise` says
            otherwise.
        tol: gap in nats that the certificate claims; the solver stops there. 1e-9 is cheap too.
        mixtures: (m, p) extreme points of the set of mixtures to be robust against; all mixtures where None.
            One row asks for a fixed mixture.
        inequalities: `(A, b)` instead of `mixtures`: the mixtures with A lambda <= b, for few domains.
        normalise: what to do with experts that do not sum to one on these points. "strict" keeps them, and refuses
            where no gate sums to one; "experts" divides each by its sum; "inequality" lets the model sum to less than
            one.
        max_steps: Newton steps; where they run out the certificate is undecided.

    Returns:
        `RobustGateSolution`.

    Raises:
        InvalidInputError: for rows that are no distributions, shapes that differ, mass where every expert is
        zero, an
            empty set of mixtures, or an empty set of gates.

    Guarantee: `lower <= V <= upper` by weak duality, and `upper - lower <= tol` as certified (rule
        `gating.duality_gap`).
        Deterministic; the domains are taken as they are given.

    Example:
        >>> solution = robust_gate([[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.1, 0.9]])
        >>> round(solution.upper, 4), solution.pi.tolist()  # log 2: disjoint domains, and experts good enough
        (0.6931, [0.5, 0.5])

    Reference: arXiv:2602.17554, section 2, in an extract; the solver is derived, may differ from the
        authors'.
    """
    if not 0 < tol < np.inf:
        raise InvalidInputError(f"`tol` must be a positive gap in nats, got {tol}; 1e-4 is the default")
    p_k, q, limits = _world(domains, experts, normalise)
    points = _extreme_points(len(p_k), mixtures, inequalities)
    p_v = points @ p_k
    # The certificate's own arithmetic may differ in the last digits: aim below what is claimed.
    weights, history = _least_favourable(p_v, limits, 0.5 * tol, max_steps)
    pi = fill(weights @ p_v, limits).pi
    return _solution(p_k, q, limits, points, weights, pi, history, tol)


def fixed_mixture_gate(
    domains: ArrayLike,
    experts: ArrayLike,
    mixture: ArrayLike,
    *,
    normalise: str = "strict",
    tol: float = 1e-9,
) -> RobustGateSolution:
    r"""The gate whose model is closest in KL to one given mixture.

    .. math:: \pi = \mathrm{clip}(p_\lambda / \mu, lo, hi), \quad \mu \text{ such that } \sum_x \pi(x) = 1

    Args:
        domains: (p, n) distributions.
        experts: (q, n) experts.
        mixture: (p,) weights of the domains.
        normalise: as in `robust_gate`.
        tol: gap that the certificate claims; the solution is exact up to round-off.

    Returns:
        `RobustGateSolution` with one extreme point, the mixture itself.

    Raises:
        InvalidInputError: as `robust_gate`.

    Guarantee: optimal, by the same certificate as `robust_gate`.

    Example:
        >>> fixed = fixed_mixture_gate([[0.7, 0.3], [0.1, 0.9]], [[0.8, 0.2], [0.2, 0.8]], [0.5, 0.5])
        >>> fixed.pi.round(12).tolist()
        [0.4, 0.6]
    """
    return robust_gate(domains, experts, mixtures=np.atleast_2d(np.asarray(mixture)), normalise=normalise, tol=tol)


def multiplicative_weights(
    domains: ArrayLike, experts: ArrayLike, *, steps: int = 1000, normalise: str = "strict"
) -> Float[np.ndarray, "steps 2"]:
    r"""The plain iteration that `robust_gate` replaces: multiplicative weights, and averaged models.

    .. math:: \lambda_k \propto \lambda_k e^{\mathrm{KL}(p_k \| \pi_\lambda) / \sqrt t}

    Args:
        domains: (p, n) distributions.
        experts: (q, n) experts.
        steps: number of iterations.
        normalise: as in `robust_gate`.

    Returns:
        (steps, 2) best lower bound and current upper bound after each step, in nats: the curve of the gap
        over time.

    Raises:
        InvalidInputError: as `robust_gate`.

    Guarantee: the gap falls like \(O(\log t / \sqrt t)\); on some worlds it stalls above 1e-4 for a very long
        time.

    Example:
        >>> curve = multiplicative_weights([[0.9, 0.1], [0.1, 0.9]], [[0.8, 0.2], [0.2, 0.8]], steps=50)
        >>> bool((curve[:, 0] <= curve[:, 1] + 1e-12).all())
        True
    """
    if steps < 1:
        raise InvalidInputError(f"`steps` must be at least 1, got {steps}")
    p_k, _, limits = _world(domains, experts, normalise)
    lam, total, lower = np.full(len(p_k), 1 / len(p_k)), np.zeros(p_k.shape[1]), -np.inf
    curve = np.empty((steps, 2))
    for t in range(1, steps + 1):
        pi = fill(lam @ p_k, limits).pi
        payoff = kl(p_k, pi)
        total += pi
        lower = max(lower, float(lam @ payoff))
        curve[t - 1] = lower, kl(p_k, total / t).max()
        lam = exponentiated_gradient(lam, payoff, rate=t**-0.5, floor=1e-12)
    return curve


def _world(domains: ArrayLike, experts: ArrayLike, normalise: str) -> tuple[np.ndarray, np.ndarray, Band]:
    if normalise not in ("strict", "experts", "inequality"):
        raise InvalidInputError(f"`normalise` must be 'strict', 'experts' or 'inequality', got {normalise!r}")
    p_k = distributions("domains", domains, sum_to_one=True)
    q = distributions("experts", experts, sum_to_one=False)
    if p_k.shape[1] != q.shape[1]:
        raise InvalidInputError(
            f"domains have {p_k.shape[1]} points and experts {q.shape[1]}; list both on the same points"
        )
    if normalise == "experts":
        q = q / q.sum(1, keepdims=True)
    limits = band(q, normalise=normalise)
    lost = (p_k > 0) & (limits.high == 0)
    if lost.any():
        k, x = np.argwhere(lost)[0]
        raise InvalidInputError(
            f"domain {k} has mass {p_k[k, x]:.6g} at point {x}, where every expert is zero, so every gate "
            f"is infinitely "
            "far from it; smooth the experts"
        )
    return p_k, q, limits


def _extreme_points(p: int, mixtures: ArrayLike | None, inequalities: tuple[ArrayLike, ArrayLike] | None) -> np.ndarray:
    if mixtures is not None and inequalities is not None:
        raise InvalidInputError("give `mixtures` or `inequalities`, not both")
    if inequalities is not None:
        points = polytope_vertices(*inequalities)
    elif mixtures is not None:
        points = distributions("mixtures", mixtures, sum_to_one=True)
    else:
        points = np.eye(p)
    if points.shape[1] != p:
        raise InvalidInputError(f"mixtures have {points.shape[1]} weights for {p} domains; give one weight a domain")
    return points


def _least_favourable(p_v: np.ndarray, limits: Band, tol: float, max_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights over the rows that maximise Phi, and how the search went."""
    if limits.short:  # the model can only be the upper envelope, so the worst row is known
        worst = kl(p_v, limits.high)
        return np.eye(len(p_v))[worst.argmax()], np.array([[worst.max(), 0.0]])
    if len(p_v) == 1:
        return np.ones(1), np.array([[float(kl(p_v[0], fill(p_v[0], limits).pi)), 0.0]])
    logs = (p_v * np.log(np.where(p_v > 0, p_v, 1.0))).sum(1)

    def phi(lam: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        mixture = lam @ p_v
        pi, free = fill(mixture, limits)
        gradient = logs - (p_v * np.log(np.where(mixture > 0, pi, 1.0))).sum(1)
        part, mass = p_v[:, free], mixture[free]
        share = part.sum(1)
        hessian = -(part / mass) @ part.T
        if mass.size:
            hessian += np.outer(share, share) / mass.sum()
        return float(lam @ gradient), gradient, hessian

    found = maximise_on_simplex(phi, np.full(len(p_v), 1 / len(p_v)), tol=tol, max_steps=max_steps)
    return found.point, found.history


def _solution(
    p_k: np.ndarray,
    q: np.ndarray,
    limits: Band,
    points: np.ndarray,
    weights: np.ndarray,
    pi: np.ndarray,
    history: np.ndarray,
    tol: float,
) -> RobustGateSolution:
    p_v = points @ p_k
    divergences = kl(p_v, pi)
    evidence = {"domains": p_k, "experts": q, "pi": pi}
    certificate = Certificate.issue(
        "gating.duality_gap",
        statement=(
            f"For every allowed mixture of the {len(p_k)} domains the gated model is within "
            f"{divergences.max():.6g} nats of "
            f"it in KL divergence, and no gate over these {len(q)} experts guarantees less by more than "
            f"{tol:g} nats."
        ),
        evidence=evidence,
        witness={
            "weights": weights,
            "extreme_points": points,
            "tol": tol,
            "worst": float(divergences.max()),
            "total": "at most one" if limits.short else "one",
        },
        reference=REFERENCE,
        assumptions=[Assumption("the domains are the distributions given; nothing is said about samples")],
        provenance={"points": p_k.shape[1], "steps": len(history)},
    )
    return RobustGateSolution(
        pi=pi,
        gate=gate_from_density(pi, q),
        mixture=weights @ points,
        weights=weights,
        extreme_points=points,
        divergences=divergences,
        upper=float(divergences.max()),
        lower=float(weights @ divergences) if len(weights) > 1 else float(divergences[0]),
        history=history,
        evidence=evidence,
        certificate=certificate,
    )
