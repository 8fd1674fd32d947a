r"""Maximising a concave function over the simplex, with a gap that is known when it stops.

Symbols: \(\Phi\) concave and once differentiable, gradient g, gap \(\max_k g_k - \lambda \cdot g \ge \max
\Phi - \Phi(\lambda)\).

The log barrier \(\Phi + \tau \sum_k \log \lambda_k\) has its maximum where \(g_k + \tau/\lambda_k\) is the
same for all k; there the gap is below \(p \tau\). So Newton steps on a falling tau reach every gap, also
where the maximum lies on the boundary and where \(\Phi\) is only piecewise twice differentiable: the line
search keeps each step an ascent. Textbook; see Boyd and Vandenberghe, "Convex Optimization" (2004), section
11.3.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError

SHRINK = 0.2
ARMIJO = 0.01
BACKTRACKS = 40

Objective = Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]]


class Maximum(NamedTuple):
    """Where the search stopped, and a bound on how much is left to gain."""

    point: Float[np.ndarray, " p"]
    value: float
    gap: float
    history: Float[np.ndarray, "steps 2"]  # value and gap at each step


def maximise_on_simplex(objective: Objective, start: ArrayLike, *, tol: float = 1e-9, max_steps: int = 500) -> Maximum:
    r"""Maximise a concave function over the simplex by Newton steps on a falling log barrier.

    .. math:: \max_{\lambda \in \Delta_p} \Phi(\lambda)

    Args:
        objective: maps an interior point to the value, the gradient (p,) and the Hessian (p, p).
        start: (p,) interior starting point.
        tol: gap at which it stops, in units of the objective.
        max_steps: Newton steps; the best point so far is returned when they are used up.

    Returns:
        A named tuple: `point`, `value`, `gap`, `history`. The point with the smallest gap seen.

    Raises:
        InvalidInputError: for a start outside the interior of the simplex.

    Guarantee: \(\max \Phi \le\) `value + gap`, by concavity, whether or not `tol` was reached.

    Example:
        >>> peak = maximise_on_simplex(lambda x: (np.log(x).sum(), 1 / x, np.diag(-1 / x**2)), [0.2, 0.8])
        >>> peak.point.round(6).tolist()
        [0.5, 0.5]
    """
    lam = np.asarray(start, dtype=np.float64)
    if lam.ndim != 1 or lam.size == 0 or not (lam > 0).all() or abs(lam.sum() - 1) > 1e-6:
        raise InvalidInputError(f"`start` must be positive and sum to one, got {lam}; the uniform weights will do")
    lam, p = lam / lam.sum(), lam.size
    value, gradient, hessian = objective(lam)
    gap = _gap(lam, gradient)
    best, history = (lam, value, gap), [(value, gap)]
    tau = max(gap, tol) / (4 * p)
    for _ in range(max_steps):
        if gap <= tol:
            break
        while gap <= 2 * p * tau:  # at the maximum for this tau the gap is at most p tau: near enough
            tau *= SHRINK
        # In the scaled variable e = d / lambda the barrier's Hessian is tau times the identity: well
        # conditioned.
        matrix = tau * np.eye(p) - lam[:, None] * hessian * lam
        # Adding a constant to the gradient moves nothing; without one the solve would amplify its round-off
        # by 1 / tau.
        slope = lam * (gradient - lam @ gradient - p * tau) + tau
        by_slope, by_sum = np.linalg.solve(matrix, np.stack([slope, lam], 1)).T
        step = by_slope - (lam @ by_slope) / (lam @ by_sum) * by_sum
        moved = _line_search(objective, lam, value, step, float(slope @ step), tau)
        if moved is None:
            break  # as close as round-off allows
        lam, value, gradient, hessian = moved
        gap = _gap(lam, gradient)
        history.append((value, gap))
        best = min(best, (lam, value, gap), key=lambda b: b[2])
    return Maximum(best[0], float(best[1]), float(best[2]), np.array(history))


def _gap(lam: np.ndarray, gradient: np.ndarray) -> float:
    return float(max(gradient.max() - lam @ gradient, 0.0))


def _line_search(
    objective: Objective, lam: np.ndarray, value: float, step: np.ndarray, decrement: float, tau: float
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray] | None:
    """Backtrack from the longest step inside the simplex until the barrier function rises enough."""
    size = min(1.0, 0.95 / max(-step.min(), 1e-300))
    room = 1e-14 * (1 + abs(value))
    for _ in range(BACKTRACKS):
        new = lam * (1 + size * step)
        new = new / new.sum()
        found = objective(new)
        rise = found[0] - value + tau * np.log(new / lam).sum()
        onward = (found[1] + tau / new) @ (lam * step)
        # Below round-off values cannot be compared; then the slope at the new point decides (Hager and Zhang,
        # 2005).
        if rise >= ARMIJO * size * decrement or (rise >= -room and onward >= -(1 - 2 * ARMIJO) * decrement):
            return new, *found
        size /= 2
    return None
