r"""The probability simplex: projection, vertices of polytopes in it, the exponentiated-gradient step.

Symbols: \(\Delta_p = \{\lambda \ge 0, \sum_k \lambda_k = 1\}\); a polytope \(\{\lambda \in \Delta_p : A
\lambda \le b\}\).
"""

from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError

MAX_SUBSETS = 2_000_000  # systems that the enumeration may solve, in batches
BATCH = 20_000


def _vectors(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0 or not np.isfinite(array).all():
        raise InvalidInputError(
            f"`{name}` must hold finite values, at least one on its last axis, got shape {array.shape}"
        )
    return array


def project_to_simplex(values: ArrayLike) -> Float[np.ndarray, "... p"]:
    r"""Euclidean projection onto the simplex, \(\arg\min_{\lambda \in \Delta_p} \|\lambda - v\|_2\).

    Args:
        values: (..., p) any finite vectors.

    Returns:
        (..., p) probabilities \(\max(v - \theta, 0)\), with theta found by sorting.

    Raises:
        InvalidInputError: for NaN or no values.

    Guarantee: exact up to round-off.

    Example:
        >>> project_to_simplex([0.5, 1.5, -3.0]).tolist()
        [0.0, 1.0, 0.0]

    Reference: Held, Wolfe and Crowder (1974); textbook.
    """
    v = _vectors("values", values)
    descending = -np.sort(-v, axis=-1)
    count = np.arange(1, v.shape[-1] + 1)
    thresholds = (np.cumsum(descending, -1) - 1) / count
    last = (descending > thresholds).sum(-1, keepdims=True) - 1
    return np.maximum(v - np.take_along_axis(thresholds, last, -1), 0.0)


def exponentiated_gradient(
    weights: ArrayLike, gradient: ArrayLike, *, rate: float, floor: float = 0.0
) -> Float[np.ndarray, "... p"]:
    r"""One ascent step of multiplicative weights, mixed with the uniform distribution.

    .. math:: \lambda' \propto \lambda e^{\eta g}, \qquad \lambda'' = (1 - c) \lambda' + c / p

    Args:
        weights: (..., p) probabilities.
        gradient: (..., p) payoffs to climb; pass their negative to descend.
        rate: step size eta.
        floor: c in [0, 1); no weight falls below c/p.

    Returns:
        (..., p) probabilities.

    Raises:
        InvalidInputError: for a floor outside [0, 1), NaN or no values.

    Guarantee: with rates \(\sqrt{2 \log p / T} / B\), payoffs of range B and no floor, regret at most
        \(B \sqrt{2 T \log p}\) after T steps (Freund and Schapire).

    Example:
        >>> exponentiated_gradient([0.5, 0.5], [1.0, 0.0], rate=np.log(3.0)).round(12).tolist()
        [0.75, 0.25]
    """
    lam, g = _vectors("weights", weights), _vectors("gradient", gradient)
    if not 0 <= floor < 1:
        raise InvalidInputError(f"`floor` must lie in [0, 1), got {floor}; 0.001 keeps every weight alive")
    if (lam < 0).any():
        raise InvalidInputError("`weights` holds negative values; give probabilities")
    with np.errstate(divide="ignore"):
        logits = np.log(lam) + rate * g
    new = np.exp(logits - logits.max(-1, keepdims=True))
    return (1 - floor) * new / new.sum(-1, keepdims=True) + floor / lam.shape[-1]


def polytope_vertices(a: ArrayLike, b: ArrayLike, *, tol: float = 1e-9) -> Float[np.ndarray, "m p"]:
    r"""All extreme points of \(\{\lambda \in \Delta_p : A \lambda \le b\}\), by enumeration.

    A vertex is where p - 1 of the inequalities (those of A, and \(\lambda_k \ge 0\)) are equalities.

    Args:
        a: (r, p) left-hand sides.
        b: (r,) right-hand sides.
        tol: slack within which an inequality still counts as met.

    Returns:
        (m, p) distinct vertices, in lexicographic order.

    Raises:
        InvalidInputError: where the polytope is empty, the shapes do not match, or the enumeration would be
        too long.

    Guarantee: complete, up to `tol`; the number of systems solved is binomial(r + p, p - 1), so it is meant
        for small p.

    Example:
        >>> polytope_vertices([[1.0, 0.0, 0.0]], [0.5]).tolist()  # the first weight is at most one half
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    """
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.ndim != 2 or left.shape[1] == 0 or right.shape != left.shape[:1]:
        raise InvalidInputError(f"`a` must be (r, p) and `b` (r,), got shapes {left.shape} and {right.shape}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InvalidInputError("`a` and `b` must be finite; leave out inequalities that bind nothing")
    p = left.shape[1]
    rows, limits = np.vstack([left, -np.eye(p)]), np.concatenate([right, np.zeros(p)])
    if comb(len(rows), p - 1) > MAX_SUBSETS:
        raise InvalidInputError(
            f"{len(rows)} inequalities in {p} dimensions give {comb(len(rows), p - 1)} candidate vertices, "
            f"more than "
            f"{MAX_SUBSETS}; give the extreme points themselves"
        )
    subsets = np.array(list(combinations(range(len(rows)), p - 1)), dtype=np.int64)
    found = [_meeting_points(rows, limits, part, tol) for part in np.array_split(subsets, len(subsets) // BATCH + 1)]
    vertices = np.unique(np.round(np.concatenate(found), 12) + 0.0, axis=0)
    if len(vertices) == 0:
        raise InvalidInputError(
            f"no mixture of the {p} domains meets all {len(left)} inequalities; relax at least one right-hand side"
        )
    distinct = [vertices[0]]
    for v in vertices[1:]:  # degenerate vertices are met by several subsets, and differ by round-off
        if np.abs(np.array(distinct) - v).max(1).min() > 10 * tol:
            distinct.append(v)
    points = np.maximum(np.array(distinct), 0.0)
    return points / points.sum(1, keepdims=True)


def _meeting_points(rows: np.ndarray, limits: np.ndarray, subsets: np.ndarray, tol: float) -> np.ndarray:
    """The feasible solutions of each subset of equalities together with the sum of one."""
    p = rows.shape[1]
    systems = np.concatenate([np.ones((len(subsets), 1, p)), rows[subsets]], axis=1)
    targets = np.concatenate([np.ones((len(subsets), 1)), limits[subsets]], axis=1)
    scale = np.maximum(np.linalg.norm(systems, axis=2, keepdims=True), 1e-300)
    regular = np.abs(np.linalg.det(systems / scale)) > 1e-12
    points = np.linalg.solve(systems[regular], targets[regular][..., None])[..., 0]
    room = tol * np.maximum(1.0, np.abs(limits))
    return points[(points @ rows.T <= limits + room).all(1)]
